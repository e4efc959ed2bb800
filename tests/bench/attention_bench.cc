// Attention over paged KV at the default model's shape. Prefill: operations
// of the visited blocks, as ratio to oneDNN's float product rate. Decode: KV
// bytes, as ratio to the memory bandwidth.

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "benchmark/benchmark.h"
#include "engine/backend/create_backend.h"
#include "engine/layout/layout_builder.h"
#include "tests/bench/machine_limits.h"

namespace sparseserve {
namespace {

constexpr int kHeads = 9;
constexpr int kKvHeads = 3;
constexpr int kHeadDim = 64;

// Sequences of `length` tokens; the last `rows` of each are queries.
class PagedBatch {
 public:
  PagedBatch(Backend& backend, int sequences, int length, int rows)
      : builder_(kKvHeads) {
    const int pages = (length + kPageTokens - 1) / kPageTokens;
    const DType dtype = backend.device().kv_dtype;
    const int64_t bytes = int64_t{sequences} * pages * kKvHeads * kPageTokens *
                          kHeadDim * BlockBytes(dtype);
    keys_ = backend.Allocate(bytes).value();
    values_ = backend.Allocate(bytes).value();
    builder_.Clear();
    for (int s = 0; s < sequences; ++s) {
      tables_.emplace_back(pages);
      std::iota(tables_[s].begin(), tables_[s].end(), s * pages);
      AddTiles(s, length, rows);
    }
    spans_.assign(tables_.begin(), tables_.end());
    const int64_t width = (kHeads + 2 * kKvHeads) * kHeadDim;
    queries_.assign(sequences * rows * width, 0.5f);
    output_.resize(sequences * rows * kHeads * kHeadDim);
    args_.queries = ConstMatrixView(queries_.data(), sequences * rows, width);
    args_.heads = kHeads;
    args_.kv = {keys_.data(),      values_.data(), dtype,
                sequences * pages, kKvHeads,       kHeadDim};
    args_.pages = spans_;
    args_.layout = &builder_.layout();
    if (rows == 1) {
      args_.groups.decode_rows = sequences;
    } else {
      args_.groups.prefill_rows = int64_t{sequences} * rows;
    }
    args_.scale = 0.125f;
    args_.output = {output_.data(), sequences * rows, kHeads * kHeadDim};
  }

  const AttentionArgs& args() const { return args_; }
  // Two products over every visited block.
  double flop() const { return flop_; }
  int64_t kv_bytes() const { return keys_.bytes() + values_.bytes(); }

 private:
  void AddTiles(int slice, int length, int rows) {
    int position = length - rows;
    while (position < length) {
      const int in_block = kPageTokens - position % kPageTokens;
      const int tile_rows = std::min(in_block, length - position);
      const int last_block = position / kPageTokens;
      builder_.AddTile({.slice = slice,
                        .first_row = row_,
                        .rows = tile_rows,
                        .first_position = position});
      const int32_t list = builder_.AddList({{0, last_block + 1}});
      for (int head = 0; head < kKvHeads; ++head) builder_.Assign(head, list);
      flop_ +=
          4.0 * tile_rows * kHeads * kHeadDim * kPageTokens * (last_block + 1);
      row_ += tile_rows;
      position += tile_rows;
    }
  }

  LayoutBuilder builder_;
  Buffer keys_, values_;
  std::vector<std::vector<PageId>> tables_;
  std::vector<absl::Span<const PageId>> spans_;
  std::vector<float> queries_, output_;
  AttentionArgs args_;
  int32_t row_ = 0;
  double flop_ = 0;
};

void BM_PrefillAttention(benchmark::State& state, const char* dtype,
                         const char* simd) {
  const auto backend =
      CreateBackend({.compute_dtype = dtype, .simd = simd}).value();
  const PagedBatch batch(*backend, 1, state.range(1), state.range(0));
  for (auto _ : state) backend->Attention(batch.args());
  const double peak = SquareProductRate(false, backend->device().threads);
  using benchmark::Counter;
  state.counters["GFLOP/s"] =
      Counter(batch.flop() * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["onednn_f32_GFLOP/s"] = peak * 1e-9;
  state.counters["of_onednn_f32"] =
      Counter(batch.flop() / peak, Counter::kIsIterationInvariantRate);
}

void BM_DecodeAttention(benchmark::State& state, const char* dtype,
                        const char* simd) {
  const auto backend =
      CreateBackend({.compute_dtype = dtype, .simd = simd}).value();
  const PagedBatch batch(*backend, state.range(0), state.range(1), 1);
  for (auto _ : state) backend->Attention(batch.args());
  const double bandwidth = ReadBandwidth(backend->device().threads);
  using benchmark::Counter;
  state.counters["GB/s"] =
      Counter(batch.kv_bytes() * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["read_GB/s"] = bandwidth * 1e-9;
  state.counters["of_bandwidth"] =
      Counter(batch.kv_bytes() / bandwidth, Counter::kIsIterationInvariantRate);
}

// Rows in the step, context length.
void PrefillShapes(benchmark::internal::Benchmark* bench) {
  bench->Args({512, 512})->Args({512, 2048})->Args({512, 8192});
}
// Sequences, context length; the largest exceeds every cache.
void DecodeShapes(benchmark::internal::Benchmark* bench) {
  bench->Args({1, 512})->Args({16, 512})->Args({16, 4096})->Args({64, 4096});
}

#define SPARSESERVE_ATTENTION_BENCH(name, dtype, simd)      \
  BENCHMARK_CAPTURE(BM_PrefillAttention, name, dtype, simd) \
      ->Apply(PrefillShapes)                                \
      ->MeasureProcessCPUTime()                             \
      ->UseRealTime()                                       \
      ->Unit(benchmark::kMillisecond);                      \
  BENCHMARK_CAPTURE(BM_DecodeAttention, name, dtype, simd)  \
      ->Apply(DecodeShapes)                                 \
      ->MeasureProcessCPUTime()                             \
      ->UseRealTime()                                       \
      ->Unit(benchmark::kMillisecond)
SPARSESERVE_ATTENTION_BENCH(bf16, "bf16", "auto");
SPARSESERVE_ATTENTION_BENCH(f32, "f32", "auto");
SPARSESERVE_ATTENTION_BENCH(f32_avx2, "f32", "avx2");

}  // namespace
}  // namespace sparseserve
