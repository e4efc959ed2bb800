// Attention time against density: lists of 5 to 100 % of the blocks that
// causality allows, as ratio to dense attention over the same rows, measured
// in turns in the same run, by the clock and by the processor time of all
// threads. `over_aim` is the ratio by the clock less (density + 0.03), which no
// case of 8K tokens or more is meant to exceed.
//
// Lists: blocks drawn at random for every (tile, KV head), all of them full but
// the tile's own; and static patterns of about that density, whose partial
// blocks are masked.

#include <algorithm>
#include <chrono>
#include <cstring>
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
#include "engine/pattern/static_keys.h"
#include "tests/bench/head_shape.h"

namespace sparseserve {
namespace {

constexpr int kPromptRows = 512;  // the last of the prompt
constexpr int kDecodes = 4;       // sequences
constexpr double kAim = 0.03;
// At least so many turns, and more until they have taken so long together.
constexpr int kTurns = 5;
constexpr double kSeconds = 0.5;

// Adds the lists of the latest tile.
using AddLists = std::function<void(const QueryTile&, LayoutBuilder&)>;

// Sequences of `tokens` each, of which the last `rows` are queries.
class Rows {
 public:
  Rows(Backend& backend, const HeadShape& shape, int sequences, int tokens,
       int rows)
      : shape_(shape) {
    const int pages = tokens / kPageTokens;
    const DType dtype = backend.device().kv_dtype;
    const int64_t elements =
        int64_t{sequences} * tokens * shape.kv_heads * shape.head_dim;
    keys_ = backend.Allocate(elements * BlockBytes(dtype)).value();
    values_ = backend.Allocate(elements * BlockBytes(dtype)).value();
    // Zeroed memory is one page of the system's until it is written.
    std::memset(keys_.as<std::byte>(), 0x3B, keys_.bytes());
    std::memset(values_.as<std::byte>(), 0x3B, values_.bytes());
    for (int s = 0; s < sequences; ++s) {
      tables_.emplace_back();
      for (int page = 0; page < pages; ++page) {
        tables_[s].push_back(s * pages + page);
      }
      for (int position = tokens - rows; position < tokens;) {
        QueryTile tile;
        tile.slice = s;
        tile.first_row = s * rows + position - (tokens - rows);
        tile.first_position = position;
        tile.rows =
            std::min(tokens, (position / kPageTokens + 1) * kPageTokens) -
            position;
        tiles_.push_back(tile);
        position += tile.rows;
      }
    }
    spans_.assign(tables_.begin(), tables_.end());
    const int64_t width = int64_t{shape.heads} * shape.head_dim;
    queries_.assign(sequences * rows * width, 0.5f);
    output_.assign(queries_.size(), 0.0f);
    args_.queries = ConstMatrixView(queries_.data(), sequences * rows, width);
    args_.heads = shape.heads;
    args_.kv = {keys_.as<std::byte>(), values_.as<std::byte>(), dtype,
                sequences * pages,     shape.kv_heads,          shape.head_dim};
    args_.pages = spans_;
    args_.scale = 0.125f;
    args_.output = {output_.data(), sequences * rows, width};
    (rows == 1 ? args_.groups.decode_rows : args_.groups.prefill_rows) =
        int64_t{sequences} * rows;
  }

  BlockLayout Layout(const AddLists& add) const {
    LayoutBuilder builder(shape_.kv_heads);
    for (const QueryTile& tile : tiles_) {
      builder.AddTile(tile);
      add(tile, builder);
    }
    return builder.layout();
  }
  AttentionArgs Over(const BlockLayout& layout) const {
    AttentionArgs args = args_;
    args.layout = &layout;
    return args;
  }
  int kv_heads() const { return shape_.kv_heads; }

 private:
  const HeadShape shape_;
  Buffer keys_, values_;
  std::vector<QueryTile> tiles_;
  std::vector<std::vector<PageId>> tables_;
  std::vector<absl::Span<const PageId>> spans_;
  std::vector<float> queries_, output_;
  AttentionArgs args_;
};

void AssignAll(int32_t list, LayoutBuilder& builder) {
  for (int head = 0; head < builder.layout().kv_heads; ++head) {
    builder.Assign(head, list);
  }
}

void AddDense(const QueryTile&, LayoutBuilder& builder) {
  AssignAll(builder.AddListOf({}), builder);
}

// The tile's own block, and others at random.
AddLists Random(double density) {
  auto random = std::make_shared<std::mt19937>(1);
  return [=](const QueryTile& tile, LayoutBuilder& builder) {
    const int32_t own = QueryBlock(tile, kPageTokens);
    const int32_t count = std::max<int32_t>(
        static_cast<int32_t>(density * (own + 1) + 0.5) - 1, 0);
    for (int head = 0; head < builder.layout().kv_heads; ++head) {
      std::vector<int32_t> blocks;
      for (int32_t block = 0; block < own; ++block) blocks.push_back(block);
      std::shuffle(blocks.begin(), blocks.end(), *random);
      std::sort(blocks.begin(), blocks.begin() + count);
      std::vector<BlockRange> ranges;
      for (int32_t i = 0; i < count; ++i) {
        ranges.push_back({blocks[i], blocks[i] + 1});
      }
      ranges.push_back({own, own + 1});
      builder.Assign(head, builder.AddList(ranges));
    }
  };
}

AddLists Static(const PatternSpec& pattern) {
  return [=](const QueryTile& tile, LayoutBuilder& builder) {
    const TilePlace place = {.query_block = QueryBlock(tile, kPageTokens)};
    AssignAll(builder.AddListOf(StaticKeys(pattern, place)), builder);
  };
}

AddLists SinkWindow(double density, int tokens) {
  const int window = static_cast<int>(density * tokens) - 2 * kPageTokens;
  return Static(SinkWindowPattern{64, std::max(window, 1)});
}

// One block of every so many, and all of those masked.
AddLists Dilated(double density, int tokens) {
  const int step = static_cast<int>(kPageTokens / density);
  return Static(DilatedWindowPattern{step, tokens});
}

int64_t Blocks(const BlockLayout& layout) {
  int64_t blocks = 0;
  for (const int32_t list : layout.list_of) blocks += layout.ListBlocks(list);
  return blocks;
}

// Fastest seconds by the clock, and by the processor time of all threads, which
// other processes disturb less.
struct Seconds {
  double wall = 1e9;
  double processor = 1e9;
};

// Of each of the two, which take turns.
std::pair<Seconds, Seconds> LeastSeconds(Backend& backend,
                                         const AttentionArgs& first,
                                         const AttentionArgs& second) {
  std::pair<Seconds, Seconds> least;
  double total = 0;
  const auto time = [&](const AttentionArgs& args, Seconds& fastest) {
    const std::clock_t processor = std::clock();
    const auto start = std::chrono::steady_clock::now();
    backend.Attention(args);
    const std::chrono::duration<double> took =
        std::chrono::steady_clock::now() - start;
    const double used =
        static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
    fastest.wall = std::min(fastest.wall, took.count());
    fastest.processor = std::min(fastest.processor, used);
    total += took.count();
  };
  for (int turn = 0; turn < kTurns || total < kSeconds; ++turn) {
    time(first, least.first);
    time(second, least.second);
  }
  return least;
}

enum class Lists { kRandom, kSinkWindow, kDilated };

AddLists Make(Lists lists, double density, int tokens) {
  switch (lists) {
    case Lists::kRandom:
      return Random(density);
    case Lists::kSinkWindow:
      return SinkWindow(density, tokens);
    case Lists::kDilated:
      return Dilated(density, tokens);
  }
  return AddDense;
}

// Arguments: tokens, density in percent.
void BM_Density(benchmark::State& state, const char* dtype,
                const HeadShape& shape, Phase phase, Lists lists) {
  const int tokens = static_cast<int>(state.range(0));
  const auto backend = CreateBackend({.compute_dtype = dtype}).value();
  const bool decodes = phase == Phase::kDecode;
  const Rows rows(*backend, shape, decodes ? kDecodes : 1, tokens,
                  decodes ? 1 : kPromptRows);
  const BlockLayout dense = rows.Layout(AddDense);
  const BlockLayout sparse = rows.Layout(
      Make(lists, static_cast<double>(state.range(1)) / 100, tokens));
  std::pair<Seconds, Seconds> seconds;
  for (auto _ : state) {
    seconds = LeastSeconds(*backend, rows.Over(dense), rows.Over(sparse));
    state.SetIterationTime(seconds.second.wall);
  }
  const double density =
      static_cast<double>(Blocks(sparse)) / static_cast<double>(Blocks(dense));
  const double ratio = seconds.second.wall / seconds.first.wall;
  state.counters["density"] = density;
  state.counters["of_dense"] = ratio;
  state.counters["processor_of_dense"] =
      seconds.second.processor / seconds.first.processor;
  state.counters["over_aim"] = ratio - (density + kAim);
}

void RegisterAll() {
  const std::pair<const char*, HeadShape> kShapes[] = {
      {"default_model", kDefaultModel}, {"eight_billion", kEightBillion}};
  const std::pair<const char*, Phase> kPhases[] = {{"prefill", Phase::kPrefill},
                                                   {"decode", Phase::kDecode}};
  const std::pair<const char*, Lists> kLists[] = {
      {"random", Lists::kRandom},
      {"sink_window", Lists::kSinkWindow},
      {"dilated_window", Lists::kDilated}};
  for (const char* dtype : {"f32", "bf16"}) {
    for (const auto& [shape_name, shape] : kShapes) {
      for (const auto& [phase_name, phase] : kPhases) {
        for (const auto& [lists_name, lists] : kLists) {
          const std::string name = std::string(dtype) + "/" + shape_name + "/" +
                                   phase_name + "/" + lists_name;
          auto* bench = benchmark::RegisterBenchmark(
              name.c_str(), [=, shape = shape, phase = phase,
                             lists = lists](benchmark::State& state) {
                BM_Density(state, dtype, shape, phase, lists);
              });
          for (const int tokens : {2048, 8192, 32768}) {
            for (const int percent : {5, 10, 25, 50, 100}) {
              bench->Args({tokens, percent});
            }
          }
          bench->Iterations(1)->UseManualTime()->Unit(benchmark::kMillisecond);
        }
      }
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
