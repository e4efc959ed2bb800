// What choosing blocks costs: time of Backend::Select, and as share of dense
// attention over the same rows, measured in the same run: the last rows of a
// chunked prompt, or a whole prompt where the pattern asks for it. In the mode
// that servers run in, and in float (f32_). Random queries and keys; the time
// hardly depends on what is chosen.

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "engine/backend/create_backend.h"
#include "engine/layout/layout_builder.h"
#include "engine/tensor/quant_blocks.h"
#include "tests/bench/head_shape.h"

namespace sparseserve {
namespace {

constexpr int kRows = 512;  // of a step

// The last `rows` of a sequence of `length` tokens.
class PromptStep {
 public:
  PromptStep(Backend& backend, const HeadShape& shape, int length, int rows,
             const SelectionRule& rule)
      : base_(shape.kv_heads),
        selected_(shape.kv_heads),
        table_(length / 64),
        rules_({rule}) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::iota(table_.begin(), table_.end(), 0);
    const int64_t elements = int64_t{length} * shape.kv_heads * shape.head_dim;
    const DType dtype = backend.device().kv_dtype;
    for (Buffer* buffer : {&keys_, &values_}) {
      *buffer = backend.Allocate(elements * BlockBytes(dtype)).value();
      if (dtype == DType::kBF16) {
        std::generate_n(buffer->as<uint16_t>(), elements,
                        [&] { return FloatToBFloat16(normal(random)); });
      } else {
        std::generate_n(buffer->as<float>(), elements,
                        [&] { return normal(random); });
      }
    }
    const int64_t width = int64_t{shape.heads} * shape.head_dim;
    queries_.resize(rows * width);
    output_.resize(rows * width);
    std::generate(queries_.begin(), queries_.end(),
                  [&] { return normal(random); });
    for (int row = 0; row < rows; row += kPageTokens) {
      base_.AddTile({.slice = 0,
                     .first_row = row,
                     .rows = kPageTokens,
                     .first_position = length - rows + row});
      const int32_t list = base_.AddListOf({});
      for (int head = 0; head < shape.kv_heads; ++head) {
        base_.Assign(head, list);
      }
    }
    selections_.resize(base_.layout().list_of.size(), {.rule = 0});
    selected_.CopyFrom(base_.layout());
    spans_ = {table_};
    attention_.queries = ConstMatrixView(queries_.data(), rows, width);
    attention_.heads = shape.heads;
    attention_.kv = {keys_.data(), values_.data(), dtype,
                     length / 64,  shape.kv_heads, shape.head_dim};
    attention_.pages = spans_;
    attention_.layout = &base_.layout();
    attention_.groups = {.prefill_rows = rows};
    attention_.scale = 0.125f;
    attention_.output = {output_.data(), rows, width};
  }

  const AttentionArgs& attention() const { return attention_; }
  SelectArgs select() {
    SelectArgs args;
    args.queries = attention_.queries;
    args.heads = attention_.heads;
    args.kv = attention_.kv;
    args.pages = attention_.pages;
    args.scale = attention_.scale;
    args.base = &base_.layout();
    args.rules = rules_;
    args.selections = selections_;
    args.selected = &selected_;
    return args;
  }

 private:
  LayoutBuilder base_, selected_;
  std::vector<PageId> table_;
  Buffer keys_, values_;
  std::vector<float> queries_, output_;
  std::vector<HeadSelection> selections_;
  std::vector<SelectionRule> rules_;
  std::vector<absl::Span<const PageId>> spans_;
  AttentionArgs attention_;
};

// By the clock, and by the processor time of all threads, which other load
// disturbs less.
struct Seconds {
  double clock = 1e9;
  double processor = 1e9;
};

// Of the fastest of a few calls.
template <typename Call>
Seconds LeastSeconds(const Call& call) {
  Seconds least;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const std::clock_t processor = std::clock();
    const auto start = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> took =
        std::chrono::steady_clock::now() - start;
    least.clock = std::min(least.clock, took.count());
    least.processor = std::min(
        least.processor,
        static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC);
  }
  return least;
}

void Measure(benchmark::State& state, const HeadShape& shape, int length,
             int rows, const SelectionRule& rule) {
  const auto shares = [&](Backend& backend, PromptStep& step,
                          const std::string& mode) {
    const SelectArgs args = step.select();
    const Seconds select = LeastSeconds([&] { backend.Select(args); });
    const Seconds dense =
        LeastSeconds([&] { backend.Attention(step.attention()); });
    state.counters[mode + "of_dense_attention"] = select.clock / dense.clock;
    state.counters[mode + "of_its_processor_time"] =
        select.processor / dense.processor;
  };
  const auto exact = CreateBackend({.compute_dtype = "f32"}).value();
  PromptStep exact_step(*exact, shape, length, rows, rule);
  shares(*exact, exact_step, "f32_");
  const auto served = CreateBackend({}).value();
  PromptStep step(*served, shape, length, rows, rule);
  const SelectArgs args = step.select();
  for (auto _ : state) served->Select(args);
  shares(*served, step, "");
}

// Arguments: stride, tokens of the context.
void BM_Antidiagonal(benchmark::State& state, const HeadShape& shape) {
  Measure(state, shape, static_cast<int>(state.range(1)), kRows,
          AntidiagonalRule{static_cast<int32_t>(state.range(0)), 0.9f});
}

// Of other rules that may be cut. Argument: tokens of the context.
void BM_Chunk(benchmark::State& state, const HeadShape& shape,
              const SelectionRule& rule) {
  Measure(state, shape, static_cast<int>(state.range(0)), kRows, rule);
}

// Of rules whose prompt comes whole. Argument: its tokens.
void BM_Whole(benchmark::State& state, const HeadShape& shape,
              const SelectionRule& rule) {
  const int length = static_cast<int>(state.range(0));
  Measure(state, shape, length, length, rule);
}

void Strides(benchmark::internal::Benchmark* bench) {
  for (const int stride : {4, 8, 16}) {
    for (const int length : {2048, 8192}) bench->Args({stride, length});
  }
  bench->UseRealTime()->Unit(benchmark::kMillisecond);
}

void Lengths(benchmark::internal::Benchmark* bench) {
  bench->Arg(2048)->Arg(8192)->UseRealTime()->Unit(benchmark::kMillisecond);
}

// Dense attention of the large model's whole prompt takes seconds.
void Length(benchmark::internal::Benchmark* bench) {
  bench->Arg(4096)->UseRealTime()->Unit(benchmark::kMillisecond);
}

constexpr VerticalSlashRule kVerticalSlash = {64, 100, 200};
// Random queries and keys never take the map by its distance; a great one does.
constexpr FlexPrefillRule kRowsOfFlexPrefill = {0.95f, 0.0f, 8};
constexpr FlexPrefillRule kMapOfFlexPrefill = {0.95f, 10.0f, 8};
constexpr SimilarityRule kSimilarity = {-1.0f, 0.95f};
constexpr PeakWeightRule kPeakWeight = {8, 4, 0.035f};

BENCHMARK_CAPTURE(BM_Antidiagonal, default_model, kDefaultModel)
    ->Apply(Strides);
BENCHMARK_CAPTURE(BM_Antidiagonal, eight_billion, kEightBillion)
    ->Apply(Strides);
BENCHMARK_CAPTURE(BM_Chunk, similarity_default_model, kDefaultModel,
                  kSimilarity)
    ->Apply(Lengths);
BENCHMARK_CAPTURE(BM_Chunk, similarity_eight_billion, kEightBillion,
                  kSimilarity)
    ->Apply(Lengths);
BENCHMARK_CAPTURE(BM_Chunk, peak_weight_default_model, kDefaultModel,
                  kPeakWeight)
    ->Apply(Lengths);
BENCHMARK_CAPTURE(BM_Chunk, peak_weight_eight_billion, kEightBillion,
                  kPeakWeight)
    ->Apply(Lengths);
BENCHMARK_CAPTURE(BM_Whole, vertical_slash_default_model, kDefaultModel,
                  kVerticalSlash)
    ->Apply(Lengths);
BENCHMARK_CAPTURE(BM_Whole, vertical_slash_eight_billion, kEightBillion,
                  kVerticalSlash)
    ->Apply(Length);
BENCHMARK_CAPTURE(BM_Whole, flex_prefill_rows_default_model, kDefaultModel,
                  kRowsOfFlexPrefill)
    ->Apply(Lengths);
BENCHMARK_CAPTURE(BM_Whole, flex_prefill_map_default_model, kDefaultModel,
                  kMapOfFlexPrefill)
    ->Apply(Lengths);
BENCHMARK_CAPTURE(BM_Whole, flex_prefill_map_eight_billion, kEightBillion,
                  kMapOfFlexPrefill)
    ->Apply(Length);

}  // namespace
}  // namespace sparseserve
