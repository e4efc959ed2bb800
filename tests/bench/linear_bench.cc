// Products at the default model's shapes, and of every dtype at one shape that
// all have blocks for. Decode: one pass over every weight, as ratio to the time
// that reading the stored bytes once takes. Prefill: as ratio to oneDNN's own
// rate at a large square product.

#include <chrono>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "engine/backend/create_backend.h"
#include "tests/bench/machine_limits.h"

namespace sparseserve {
namespace {

constexpr int kLayers = 30;
constexpr int kMaxBenchRows = 512;
constexpr int kMaxColumns = 2048;

struct ShapeOfWeight {
  int64_t rows = 0;
  int64_t columns = 0;
};
constexpr ShapeOfWeight kLayerShapes[] = {
    {960, 576}, {576, 576}, {3072, 576}, {576, 1536}};

// Together far larger than a cache, in any dtype.
constexpr int kDtypeMatrices = 40;
constexpr ShapeOfWeight kDtypeShape = {2048, 2048};

class ModelWeights {
 public:
  // The matrices of a model of the default one's shape.
  static ModelWeights OfDefaultModel(Backend& backend) {
    ModelWeights model;
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const ShapeOfWeight& shape : kLayerShapes) {
        model.Add(backend, DType::kQ4_1, shape, WeightUse::kLayer);
      }
    }
    model.Add(backend, DType::kQ8_0, {49152, 576}, WeightUse::kFewRows);
    return model;
  }
  static ModelWeights OfDtype(Backend& backend, DType dtype) {
    ModelWeights model;
    for (int i = 0; i < kDtypeMatrices; ++i) {
      model.Add(backend, dtype, kDtypeShape, WeightUse::kFewRows);
    }
    return model;
  }

  int64_t stored_bytes() const { return stored_bytes_; }
  // Multiply-adds of one row through every weight, times two.
  double flop_per_row(size_t weights) const {
    double flop = 0;
    for (size_t w = 0; w < weights; ++w) {
      flop += 2.0 * weights_[w]->rows() * weights_[w]->columns();
    }
    return flop;
  }
  size_t layer_weights() const { return weights_.size() - 1; }
  const std::vector<std::unique_ptr<Weight>>& weights() const {
    return weights_;
  }

 private:
  ModelWeights() = default;

  void Add(Backend& backend, DType dtype, ShapeOfWeight shape, WeightUse use) {
    const int64_t bytes =
        shape.rows * shape.columns / BlockElements(dtype) * BlockBytes(dtype);
    stored_bytes_ += bytes;
    storage_.push_back(std::make_unique<std::byte[]>(bytes));
    // Halves of 0x1C1C are 0.004: finite, whatever block they scale.
    std::memset(storage_.back().get(), 0x1C, bytes);
    weights_.push_back(backend
                           .LoadWeight({{storage_.back().get(), dtype,
                                         shape.rows, shape.columns}},
                                       use)
                           .value());
  }

  int64_t stored_bytes_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> storage_;
  std::vector<std::unique_ptr<Weight>> weights_;
};

void Multiply(Backend& backend, const ModelWeights& model, size_t weights,
              RowGroups groups, const std::vector<float>& input,
              std::vector<float>& output) {
  const int64_t rows = groups.decode_rows + groups.prefill_rows;
  for (size_t w = 0; w < weights; ++w) {
    const Weight& weight = *model.weights()[w];
    backend.Linear(weight,
                   ConstMatrixView(input.data(), rows, weight.columns()),
                   groups, false, {output.data(), rows, weight.rows()});
  }
}

void MeasureDecode(benchmark::State& state, Backend& backend,
                   const ModelWeights& model) {
  const int64_t rows = state.range(0);
  const std::vector<float> input(rows * kMaxColumns, 0.5f);
  std::vector<float> output(rows * 49152);
  for (auto _ : state) {
    Multiply(backend, model, model.weights().size(), {.decode_rows = rows},
             input, output);
  }
  const double bandwidth = ReadBandwidth(backend.device().threads);
  using benchmark::Counter;
  state.counters["tokens/s"] =
      Counter(rows, Counter::kIsIterationInvariantRate);
  state.counters["GFLOP/s"] =
      Counter(rows * model.flop_per_row(model.weights().size()) * 1e-9,
              Counter::kIsIterationInvariantRate);
  state.counters["read_GB/s"] = bandwidth * 1e-9;
  state.counters["of_bandwidth"] = Counter(model.stored_bytes() / bandwidth,
                                           Counter::kIsIterationInvariantRate);
}

void BM_DecodeLinear(benchmark::State& state, const char* simd) {
  const auto backend =
      CreateBackend({.compute_dtype = "f32", .simd = simd}).value();
  MeasureDecode(state, *backend, ModelWeights::OfDefaultModel(*backend));
}

// Arguments: rows, and the dtype's place in kAllDTypes.
void BM_DecodeDtype(benchmark::State& state) {
  const DType dtype = kAllDTypes[state.range(1)];
  state.SetLabel(std::string(DTypeName(dtype)));
  const auto backend = CreateBackend({.compute_dtype = "f32"}).value();
  MeasureDecode(state, *backend, ModelWeights::OfDtype(*backend, dtype));
}

void BM_PrefillLinear(benchmark::State& state, const char* compute_dtype) {
  const auto backend =
      CreateBackend({.compute_dtype = compute_dtype, .max_rows = kMaxBenchRows})
          .value();
  const ModelWeights model = ModelWeights::OfDefaultModel(*backend);
  const int64_t rows = state.range(0);
  const std::vector<float> input(rows * kMaxColumns, 0.5f);
  std::vector<float> output(rows * 3072);
  for (auto _ : state) {
    Multiply(*backend, model, model.layer_weights(), {.prefill_rows = rows},
             input, output);
  }
  const bool bf16 = backend->device().compute_dtype == ComputeDtype::kBF16;
  const double peak = SquareProductRate(bf16, backend->device().threads);
  const double flop = rows * model.flop_per_row(model.layer_weights());
  using benchmark::Counter;
  state.counters["tokens/s"] =
      Counter(rows, Counter::kIsIterationInvariantRate);
  state.counters["GFLOP/s"] =
      Counter(flop * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["onednn_square_GFLOP/s"] = peak * 1e-9;
  state.counters["of_onednn_square"] =
      Counter(flop / peak, Counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(BM_DecodeLinear, best, "auto")
    ->Arg(1)
    ->Arg(4)
    ->Arg(16)
    ->Arg(64)
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_DecodeLinear, avx2, "avx2")
    ->Arg(1)
    ->Arg(4)
    ->Arg(16)
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(BM_DecodeDtype)
    ->ArgsProduct(
        {{1, 16}, benchmark::CreateDenseRange(0, std::size(kAllDTypes) - 1, 1)})
    ->ArgNames({"rows", "dtype"})
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_PrefillLinear, f32, "f32")
    ->Arg(64)
    ->Arg(256)
    ->Arg(512)
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_PrefillLinear, bf16, "bf16")
    ->Arg(20)
    ->Arg(64)
    ->Arg(100)
    ->Arg(256)
    ->Arg(512)
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sparseserve
