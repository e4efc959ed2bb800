// Products at the default model's shapes, and of every dtype at one shape that
// all have blocks for. Decode: one pass over every weight, as ratio to the time
// that reading the stored bytes once takes (packed ones are up to a ninth
// more), and in integers (bf16 mode) also to the same products in float, in
// turns. Prefill: as ratio to oneDNN's own rate at a large square product.

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
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
  static ModelWeights OfDefaultModel(Backend& backend, WeightUse use) {
    ModelWeights model;
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const ShapeOfWeight& shape : kLayerShapes) {
        model.Add(backend, DType::kQ4_1, shape, use);
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

// One pass of decode rows over every weight.
class DecodePass {
 public:
  DecodePass(const char* compute_dtype, const char* simd)
      : backend_(CreateBackend({.compute_dtype = compute_dtype, .simd = simd})
                     .value()) {}

  void LoadDefaultModel() {
    model_ = ModelWeights::OfDefaultModel(*backend_, WeightUse::kFewRows);
  }
  void LoadDtype(DType dtype) {
    model_ = ModelWeights::OfDtype(*backend_, dtype);
  }

  void Run(int64_t rows) {
    input_.resize(rows * kMaxColumns, 0.5f);
    output_.resize(rows * 49152);
    Multiply(*backend_, *model_, model_->weights().size(),
             {.decode_rows = rows}, input_, output_);
  }
  double Seconds(int64_t rows) {
    const auto start = std::chrono::steady_clock::now();
    Run(rows);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() -
                                         start)
        .count();
  }

  const ModelWeights& model() const { return *model_; }
  int threads() const { return backend_->device().threads; }

 private:
  std::unique_ptr<Backend> backend_;
  std::optional<ModelWeights> model_;
  std::vector<float> input_;
  std::vector<float> output_;
};

void MeasureDecode(benchmark::State& state, DecodePass& pass) {
  const int64_t rows = state.range(0);
  for (auto _ : state) pass.Run(rows);
  const ModelWeights& model = pass.model();
  const double bandwidth = ReadBandwidth(pass.threads());
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

// How many times the speed of `slow` is `fast`'s: the median of alternating
// runs, since other work comes and goes.
double SpeedUp(DecodePass& fast, DecodePass& slow, int64_t rows) {
  constexpr int kRounds = 15;
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round) {
    const double seconds = slow.Seconds(rows);
    ratios.push_back(seconds / fast.Seconds(rows));
  }
  std::nth_element(ratios.begin(), ratios.begin() + kRounds / 2, ratios.end());
  return ratios[kRounds / 2];
}

void BM_DecodeLinear(benchmark::State& state, const char* compute_dtype,
                     const char* simd) {
  DecodePass pass(compute_dtype, simd);
  pass.LoadDefaultModel();
  MeasureDecode(state, pass);
  if (std::string_view(compute_dtype) == "f32") return;
  DecodePass in_float("f32", simd);
  in_float.LoadDefaultModel();
  state.counters["over_float"] = SpeedUp(pass, in_float, state.range(0));
}

// Arguments: rows, and the dtype's place in kAllDTypes.
void BM_DecodeDtype(benchmark::State& state, const char* compute_dtype,
                    const char* simd) {
  const DType dtype = kAllDTypes[state.range(1)];
  state.SetLabel(std::string(DTypeName(dtype)));
  DecodePass pass(compute_dtype, simd);
  pass.LoadDtype(dtype);
  MeasureDecode(state, pass);
  if (std::string_view(compute_dtype) == "f32") return;
  DecodePass in_float("f32", simd);
  in_float.LoadDtype(dtype);
  state.counters["over_float"] = SpeedUp(pass, in_float, state.range(0));
}

void BM_PrefillLinear(benchmark::State& state, const char* compute_dtype) {
  const auto backend =
      CreateBackend({.compute_dtype = compute_dtype, .max_rows = kMaxBenchRows})
          .value();
  const ModelWeights model =
      ModelWeights::OfDefaultModel(*backend, WeightUse::kLayer);
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

void InMilliseconds(benchmark::internal::Benchmark* bench) {
  bench->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);
}

void DecodeRows(benchmark::internal::Benchmark* bench) {
  for (const int rows : {1, 4, 16, 64}) bench->Arg(rows);
  InMilliseconds(bench);
}

// One and many rows of every dtype.
void RowsByDtype(benchmark::internal::Benchmark* bench) {
  bench
      ->ArgsProduct(
          {{1, 16},
           benchmark::CreateDenseRange(0, std::size(kAllDTypes) - 1, 1)})
      ->ArgNames({"rows", "dtype"});
  InMilliseconds(bench);
}

BENCHMARK_CAPTURE(BM_DecodeLinear, f32, "f32", "auto")->Apply(DecodeRows);
BENCHMARK_CAPTURE(BM_DecodeLinear, f32_avx2, "f32", "avx2")->Apply(DecodeRows);
BENCHMARK_CAPTURE(BM_DecodeLinear, integer, "bf16", "auto")->Apply(DecodeRows);
BENCHMARK_CAPTURE(BM_DecodeLinear, integer_avx2, "bf16", "avx2")
    ->Apply(DecodeRows);
BENCHMARK_CAPTURE(BM_DecodeDtype, f32, "f32", "auto")->Apply(RowsByDtype);
BENCHMARK_CAPTURE(BM_DecodeDtype, integer, "bf16", "auto")->Apply(RowsByDtype);
BENCHMARK_CAPTURE(BM_DecodeDtype, integer_avx2, "bf16", "avx2")
    ->Apply(RowsByDtype);
BENCHMARK_CAPTURE(BM_PrefillLinear, f32, "f32")
    ->Arg(64)
    ->Arg(256)
    ->Arg(512)
    ->Apply(InMilliseconds);
BENCHMARK_CAPTURE(BM_PrefillLinear, bf16, "bf16")
    ->Arg(20)
    ->Arg(64)
    ->Arg(100)
    ->Arg(256)
    ->Arg(512)
    ->Apply(InMilliseconds);

}  // namespace
}  // namespace sparseserve
