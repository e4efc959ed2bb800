// Decode over pages that bounds of keys choose (quest): time of choosing and of
// attention over what was chosen, and of taking lists that were kept in place
// of choosing, each as share of dense attention over the same rows. They take
// turns in one run, over as many layers as have kContextBytes of keys and
// values, since those of a real step come from memory. Also what taking the
// bounds adds to storing a prompt's keys.

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "engine/backend/create_backend.h"
#include "engine/layout/layout_builder.h"
#include "engine/pattern/kept_blocks.h"
#include "tests/bench/head_shape.h"

namespace sparseserve {
namespace {

constexpr int64_t kContextBytes = int64_t{256} << 20;
constexpr int kPromptRows = 512;
// At least so many turns, and more until they have taken so long together.
constexpr int kTurns = 5;
constexpr double kSeconds = 1.0;

// One layer of `sequences` contexts of `tokens` random keys and values, their
// pages in no order.
class Layer {
 public:
  Layer(Backend& backend, const HeadShape& shape, int sequences, int tokens,
        std::mt19937& random)
      : backend_(backend), shape_(shape) {
    const int pages = tokens / kPageTokens;
    const DType dtype = backend.device().kv_dtype;
    const int64_t elements =
        int64_t{sequences} * tokens * shape.kv_heads * shape.head_dim;
    keys_ = backend.Allocate(elements * BlockBytes(dtype)).value();
    values_ = backend.Allocate(elements * BlockBytes(dtype)).value();
    bounds_ = backend.Allocate(elements * 2 / kPageTokens * BlockBytes(dtype))
                  .value();
    std::vector<PageId> shuffled(sequences * pages);
    for (size_t i = 0; i < shuffled.size(); ++i) {
      shuffled[i] = static_cast<PageId>(i);
    }
    std::shuffle(shuffled.begin(), shuffled.end(), random);
    for (int s = 0; s < sequences; ++s) {
      tables_.emplace_back(shuffled.begin() + s * pages,
                           shuffled.begin() + (s + 1) * pages);
    }
    spans_.assign(tables_.begin(), tables_.end());
    kv_ = {.keys = keys_.data(),
           .values = values_.data(),
           .dtype = dtype,
           .pages = sequences * pages,
           .kv_heads = shape.kv_heads,
           .head_dim = shape.head_dim,
           .key_bounds = bounds_.data()};
    std::normal_distribution<float> normal;
    qkv_.resize(int64_t{kPromptRows} * columns());
    for (float& value : qkv_) value = normal(random);
    for (int s = 0; s < sequences; ++s) {
      for (int first = 0; first < tokens; first += kPromptRows) {
        Store(s, first, /*takes_bounds=*/true);
      }
    }
  }

  // kPromptRows keys and values from a position on.
  void Store(int sequence, int first, bool takes_bounds) {
    positions_.clear();
    slots_.clear();
    for (int i = first; i < first + kPromptRows; ++i) {
      positions_.push_back(i);
      slots_.push_back(int64_t{tables_[sequence][i / kPageTokens]} *
                           kPageTokens +
                       i % kPageTokens);
    }
    RopeAndStoreArgs args;
    args.qkv = {qkv_.data(), kPromptRows, columns()};
    args.heads = shape_.heads;
    args.positions = positions_;
    args.kv_slots = slots_;
    args.kv = kv_;
    if (!takes_bounds) args.kv.key_bounds = nullptr;
    backend_.RopeAndStore(args);
  }

  int64_t columns() const {
    return int64_t{shape_.heads + 2 * shape_.kv_heads} * shape_.head_dim;
  }
  const KvLayerView& kv() const { return kv_; }
  absl::Span<const absl::Span<const PageId>> pages() const { return spans_; }

 private:
  Backend& backend_;
  const HeadShape shape_;
  Buffer keys_, values_, bounds_;
  std::vector<std::vector<PageId>> tables_;
  std::vector<absl::Span<const PageId>> spans_;
  KvLayerView kv_;
  std::vector<float> qkv_;
  std::vector<int32_t> positions_;
  std::vector<int64_t> slots_;
};

// The next row of every sequence, in every layer.
class DecodeStep {
 public:
  DecodeStep(Backend& backend, const HeadShape& shape, int sequences,
             int tokens, const SelectionRule& rule)
      : backend_(backend),
        shape_(shape),
        base_(shape.kv_heads),
        rules_({rule}) {
    std::mt19937 random(1);
    const int64_t layer_bytes = int64_t{2} * sequences * tokens *
                                shape.kv_heads * shape.head_dim *
                                BlockBytes(backend.device().kv_dtype);
    const int64_t layers = (kContextBytes + layer_bytes - 1) / layer_bytes;
    for (int64_t layer = 0; layer < layers; ++layer) {
      layers_.push_back(
          std::make_unique<Layer>(backend, shape, sequences, tokens, random));
      selected_.emplace_back(shape.kv_heads);
    }
    std::normal_distribution<float> normal;
    queries_.resize(int64_t{sequences} * shape.heads * shape.head_dim);
    for (float& value : queries_) value = normal(random);
    output_.resize(queries_.size());
    for (int s = 0; s < sequences; ++s) {
      base_.AddTile({.slice = s,
                     .first_row = s,
                     .rows = 1,
                     .first_position = tokens - 1});
      const int32_t list = base_.AddListOf({});
      for (int head = 0; head < shape.kv_heads; ++head) {
        base_.Assign(head, list);
      }
    }
    selections_.resize(base_.layout().list_of.size(), {.rule = 0});
    for (LayoutBuilder& layer : selected_) layer.CopyFrom(base_.layout());
  }

  void Select(bool is_kept) {
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      SelectArgs args;
      args.queries = Queries();
      args.heads = shape_.heads;
      args.kv = layers_[layer]->kv();
      args.pages = layers_[layer]->pages();
      args.base = &base_.layout();
      args.rules = rules_;
      args.selections = selections_;
      if (is_kept) args.kept = kept_[layer];
      args.selected = &selected_[layer];
      backend_.Select(args);
    }
  }

  // Keeps what Select() chose.
  void Keep() {
    kept_blocks_.clear();
    kept_.clear();
    for (const LayoutBuilder& layer : selected_) {
      const BlockLayout& layout = layer.layout();
      std::vector<absl::Span<const BlockRange>>& of_layer =
          kept_.emplace_back();
      for (size_t i = 0; i < layout.list_of.size(); ++i) {
        KeptBlocks& kept =
            *kept_blocks_.emplace_back(std::make_unique<KeptBlocks>());
        kept.Keep(0, 0, rules_[0], layout, layout.list_of[i]);
        of_layer.push_back(kept.Find(0, 1, kPageTokens, rules_[0]));
      }
    }
  }

  void Attend(bool is_dense) {
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      AttentionArgs args;
      args.queries = Queries();
      args.heads = shape_.heads;
      args.kv = layers_[layer]->kv();
      args.pages = layers_[layer]->pages();
      args.layout = is_dense ? &base_.layout() : &selected_[layer].layout();
      args.scale = 0.125f;
      args.groups.decode_rows = args.queries.rows;
      args.output = {output_.data(), args.queries.rows, args.queries.columns};
      backend_.Attention(args);
    }
  }

  double Density() const {
    int64_t chosen = 0;
    int64_t all = 0;
    const BlockLayout& first = selected_[0].layout();
    for (size_t i = 0; i < first.list_of.size(); ++i) {
      chosen += first.ListBlocks(first.list_of[i]);
      all += base_.layout().ListBlocks(base_.layout().list_of[i]);
    }
    return static_cast<double>(chosen) / static_cast<double>(all);
  }
  double layers() const { return static_cast<double>(layers_.size()); }
  Layer& layer(int index) { return *layers_[index]; }

 private:
  ConstMatrixView Queries() const {
    const int64_t width = int64_t{shape_.heads} * shape_.head_dim;
    return ConstMatrixView(
        queries_.data(), static_cast<int64_t>(queries_.size()) / width, width);
  }

  Backend& backend_;
  const HeadShape shape_;
  LayoutBuilder base_;
  std::vector<LayoutBuilder> selected_;  // of layers_
  std::vector<SelectionRule> rules_;
  std::vector<HeadSelection> selections_;
  std::vector<std::unique_ptr<KeptBlocks>> kept_blocks_;  // of every pair
  std::vector<std::vector<absl::Span<const BlockRange>>> kept_;  // of layers_
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<float> queries_, output_;
};

// Fastest seconds by the clock, and by the processor time of all threads, which
// other processes disturb less.
struct Seconds {
  double wall = 1e9;
  double processor = 1e9;
};

// Of each call; they take turns.
template <size_t kCalls>
std::array<Seconds, kCalls> LeastSeconds(
    const std::array<std::function<void()>, kCalls>& calls) {
  std::array<Seconds, kCalls> least;
  double total = 0;
  for (int turn = 0; turn < kTurns || total < kSeconds; ++turn) {
    for (size_t i = 0; i < kCalls; ++i) {
      const std::clock_t processor = std::clock();
      const auto start = std::chrono::steady_clock::now();
      calls[i]();
      const std::chrono::duration<double> took =
          std::chrono::steady_clock::now() - start;
      const double used =
          static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
      least[i].wall = std::min(least[i].wall, took.count());
      least[i].processor = std::min(least[i].processor, used);
      total += took.count();
    }
  }
  return least;
}

// Arguments: sequences, tokens of each, density in percent.
void BM_Quest(benchmark::State& state, const char* dtype,
              const HeadShape& shape) {
  const int sequences = static_cast<int>(state.range(0));
  const int tokens = static_cast<int>(state.range(1));
  const int blocks =
      static_cast<int>(state.range(2) * (tokens / kPageTokens) / 100);
  const auto backend = CreateBackend({.compute_dtype = dtype}).value();
  DecodeStep step(*backend, shape, sequences, tokens,
                  PageBoundRule{blocks, 1, 2});
  step.Select(/*is_kept=*/false);
  step.Keep();
  std::array<Seconds, 4> seconds;
  for (auto _ : state) {
    seconds = LeastSeconds<4>({[&] { step.Attend(/*is_dense=*/true); },
                               [&] { step.Select(/*is_kept=*/false); },
                               [&] { step.Attend(/*is_dense=*/false); },
                               [&] { step.Select(/*is_kept=*/true); }});
    state.SetIterationTime(seconds[1].wall + seconds[2].wall);
  }
  const auto [dense, select, sparse, kept] = seconds;
  state.counters["density"] = step.Density();
  state.counters["dense_us_a_layer"] = dense.wall * 1e6 / step.layers();
  state.counters["attention"] = sparse.wall / dense.wall;
  state.counters["selection"] = select.wall / dense.wall;
  state.counters["kept"] = kept.wall / dense.wall;
  state.counters["processor_attention"] = sparse.processor / dense.processor;
  state.counters["processor_selection"] = select.processor / dense.processor;
  state.counters["processor_kept"] = kept.processor / dense.processor;
}

// What bounds add to storing kPromptRows keys and values.
void BM_Store(benchmark::State& state, const char* dtype,
              const HeadShape& shape) {
  const auto backend = CreateBackend({.compute_dtype = dtype}).value();
  std::mt19937 random(1);
  Layer layer(*backend, shape, 1, 8192, random);
  std::array<Seconds, 2> seconds;
  const auto store = [&](bool takes_bounds) {
    for (int first = 0; first < 8192; first += kPromptRows) {
      layer.Store(0, first, takes_bounds);
    }
  };
  for (auto _ : state) {
    seconds = LeastSeconds<2>({[&] { store(false); }, [&] { store(true); }});
    state.SetIterationTime(seconds[1].wall);
  }
  const double tokens = 8192;
  state.counters["ns_a_token"] = seconds[0].wall * 1e9 / tokens;
  state.counters["ns_for_bounds"] =
      (seconds[1].wall - seconds[0].wall) * 1e9 / tokens;
  state.counters["processor_ns_for_bounds"] =
      (seconds[1].processor - seconds[0].processor) * 1e9 / tokens;
}

void RegisterAll() {
  const std::pair<const char*, HeadShape> kShapes[] = {
      {"default_model", kDefaultModel}, {"eight_billion", kEightBillion}};
  for (const char* dtype : {"f32", "bf16"}) {
    for (const auto& [shape_name, shape] : kShapes) {
      const std::string name = std::string(dtype) + "/" + shape_name;
      auto* quest = benchmark::RegisterBenchmark(
          (name + "/quest").c_str(),
          [=, shape = shape](benchmark::State& state) {
            BM_Quest(state, dtype, shape);
          });
      for (const int sequences : {1, 4}) {
        for (const int percent : {5, 10, 25, 50, 100}) {
          quest->Args({sequences, 8192, percent});
        }
      }
      quest->Iterations(1)->UseManualTime()->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark((name + "/store").c_str(),
                                   [=, shape = shape](benchmark::State& state) {
                                     BM_Store(state, dtype, shape);
                                   })
          ->Iterations(1)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
}

}  // namespace
}  // namespace sparseserve

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  sparseserve::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
