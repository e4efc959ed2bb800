// Row kernels on a GPU at the shapes of Llama-3.1-8B: what is element by
// element, over 8,192 rows and over few; products of 1 to 16 rows with weights
// that come from memory. Prints a table; --csv=FILE writes it down.
//
// A repetition is a CUDA graph of launches over memory of their own, so that
// nothing is in L2: at least 400 MB pass between two visits, but for element by
// element kernels over few rows, which are about time. Rates count what has to
// be read and written once; they are put beside the rates of a copy and of a
// read that the same run measures, products also beside 4.26 TB/s. A sample of
// products' results is checked before it is timed.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/cuda/embedding.h"
#include "engine/backend/cuda/few_rows_product.h"
#include "engine/backend/cuda/gated_activation.h"
#include "engine/backend/cuda/rms_norm.h"
#include "engine/backend/cuda/rope_and_store.h"
#include "tests/bench/cuda/launch_graph.h"
#include "tests/bench/cuda/memory_passes.h"
#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/device_array.h"

namespace sparseserve::cuda {
namespace {

constexpr int kWarmUps = 5;
constexpr int kRepetitions = 21;
constexpr double kCopyRate = 4260;  // GB/s, of earlier runs on an H200
constexpr std::int64_t kColdBytes = 400'000'000;
constexpr std::int64_t kPoolBytes = std::int64_t{2304} << 20;
constexpr int kPeriod = 1 << 24;  // elements after which the pool repeats

// Values between -1 and 1, all bits of which are in use.
std::vector<std::uint16_t> MakePeriod() {
  std::vector<std::uint16_t> values(kPeriod);
  std::uint32_t state = 12345;
  for (std::uint16_t& value : values) {
    state = state * 1664525u + 1013904223u;
    value = ToBfloat16(static_cast<float>(static_cast<std::int32_t>(state)) /
                       2147483648.0f);
  }
  return values;
}

class RowKernelsBench {
 public:
  RowKernelsBench(const FewRowsProduct& product, std::string device, FILE* csv)
      : product_(product),
        device_(std::move(device)),
        csv_(csv),
        period_(MakePeriod()),
        pool_(kPoolBytes / 2),
        scratch_(kPoolBytes / 8),
        sink_(1),
        gains_(std::vector<float>(1 << 17, 0.7f)) {
    const DeviceArray<std::uint16_t> period(period_);
    for (std::int64_t at = 0; at < kPoolBytes; at += kPeriod * 2) {
      cudaMemcpy(reinterpret_cast<char*>(pool_.data()) + at, period.data(),
                 std::min<std::int64_t>(kPeriod * 2, kPoolBytes - at),
                 cudaMemcpyDeviceToDevice);
    }
    // As f32 and as bf16 small numbers.
    cudaMemset(scratch_.data(), 0x3c, scratch_.size() * sizeof(float));
    std::printf("%-22s %6s %10s %10s %8s %7s %7s %7s  %s\n", "kernel", "rows",
                "median us", "fastest us", "GB/s", "/copy", "/read", "/4260",
                "MHz, MHz, W, C");
    if (csv_ != nullptr) {
      std::fprintf(csv_,
                   "device,kernel,rows,mb,median_us,fastest_us,repetitions,"
                   "gb_s,of_copy,of_read,of_4260,sm_mhz,memory_mhz,watt,"
                   "celsius\n");
    }
  }

  bool RunAll() { return RunRates() && RunElements() && RunProducts(); }

 private:
  struct Case {
    std::string name;
    int rows;
    double bytes;  // of a launch
    int launches;
  };

  // `queue(i, stream)`: launch i of the graph.
  template <class Queue>
  bool Run(const Case& what, const Queue& queue, double* rate = nullptr) {
    LaunchGraph graph;
    const bool captured = graph.Capture([&](cudaStream_t stream) {
      bool queued = true;
      for (int i = 0; i < what.launches; ++i) {
        queued = queue(i, stream) && queued;
      }
      return queued;
    });
    const std::vector<float> times =
        captured ? graph.Time(kWarmUps, kRepetitions) : std::vector<float>();
    if (times.empty()) {
      std::printf("%s failed: %s\n", what.name.c_str(),
                  cudaGetErrorString(cudaGetLastError()));
      return false;
    }
    const double median = times[times.size() / 2] * 1e3 / what.launches;
    const double gb_s = what.bytes / median / 1e3;
    if (rate != nullptr) *rate = gb_s;
    const std::string clocks = graph.ClocksUnder(times.front());
    const double fastest = times.front() * 1e3 / what.launches;
    std::printf("%-22s %6d %10.2f %10.2f %8.0f %7.3f %7.3f %7.3f  %s\n",
                what.name.c_str(), what.rows, median, fastest, gb_s,
                gb_s / copy_rate_, gb_s / read_rate_, gb_s / kCopyRate,
                clocks.c_str());
    std::fflush(stdout);
    if (csv_ != nullptr) {
      std::fprintf(csv_, "%s,%s,%d,%.3f,%.3f,%.3f,%d,%.1f,%.4f,%.4f,%.4f,%s\n",
                   device_.c_str(), what.name.c_str(), what.rows,
                   what.bytes / 1e6, median, fastest, kRepetitions, gb_s,
                   gb_s / copy_rate_, gb_s / read_rate_, gb_s / kCopyRate,
                   clocks.c_str());
      std::fflush(csv_);
    }
    return true;
  }

  bool RunRates() {
    constexpr std::int64_t kBytes = std::int64_t{1} << 30;
    return Run(
               {"copy", 0, 2.0 * kBytes, 2},
               [&](int, cudaStream_t stream) {
                 return LaunchMemoryCopy(pool_.data() + kBytes / 2, kBytes,
                                         pool_.data(), stream);
               },
               &copy_rate_) &&
           Run(
               {"read", 0, 1.0 * kBytes, 2},
               [&](int i, cudaStream_t stream) {
                 return LaunchMemoryRead(pool_.data() + i * (kBytes / 2),
                                         kBytes, sink_.data(), stream);
               },
               &read_rate_);
  }

  bool RunElements() {
    for (int rows : {1, 16, 8192}) {
      if (!RunNorms(rows) || !RunEmbedding(rows) || !RunGates(rows) ||
          !RunRope(rows)) {
        return false;
      }
    }
    constexpr std::int64_t kLogits = std::int64_t{128256} * 512;
    return Run(
        {"soft cap", 512, kLogits * 8.0, 4}, [&](int, cudaStream_t stream) {
          return LaunchSoftCap({30.0f, kLogits, scratch_.data()}, stream).ok();
        });
  }

  bool RunNorms(int rows) {
    const double elements = rows * 4096.0;
    RmsNormArgs norm;
    norm.rows = rows;
    norm.columns = 4096;
    norm.input = scratch_.data();
    norm.gain = gains_.data();
    norm.output = scratch_.data() + (1 << 26);
    AddRmsNormArgs add;
    add.rows = rows;
    add.columns = 4096;
    add.input = pool_.data();
    add.input_is_bf16 = true;
    add.gain = gains_.data();
    add.hidden = scratch_.data();
    return Run({"rms norm", rows, elements * 6, 16},
               [&](int, cudaStream_t stream) {
                 return LaunchRmsNorm(norm, stream).ok();
               }) &&
           Run({"add rms norm", rows, elements * 10, 16},
               [&](int, cudaStream_t stream) {
                 return LaunchAddRmsNorm(add, stream).ok();
               });
  }

  bool RunEmbedding(int rows) {
    std::vector<std::int32_t> tokens(rows);
    for (int r = 0; r < rows; ++r) {
      tokens[r] = static_cast<int>(std::int64_t{r} * 7919 % 128256);
    }
    const DeviceArray<std::int32_t> device_tokens(tokens);
    EmbeddingArgs args;
    args.rows = rows;
    args.tokens = device_tokens.data();
    args.table = pool_.data();
    args.vocabulary = 128256;
    args.columns = 4096;
    args.output = scratch_.data();
    return Run({"embedding", rows, rows * 4096.0 * 6, 16},
               [&](int, cudaStream_t stream) {
                 return LaunchEmbedding(args, stream).ok();
               });
  }

  bool RunGates(int rows) {
    GatedActivationArgs args;
    args.rows = rows;
    args.columns = 14336;
    args.gate_up = pool_.data();
    args.output = scratch_.data();
    const double bytes = rows * 14336.0 * 6;
    return Run({"swiglu", rows, bytes, 16},
               [&](int, cudaStream_t stream) {
                 return LaunchSwiGlu(args, stream).ok();
               }) &&
           Run({"geglu", rows, bytes, 16}, [&](int, cudaStream_t stream) {
             return LaunchGeGlu(args, stream).ok();
           });
  }

  // With bounds of keys. Few rows are of sequences of their own, many of one,
  // so that every 64th row fills a page. The rows lie in the scratch memory,
  // which stays finite however often it is turned.
  bool RunRope(int rows) {
    const bool one = rows <= 16;
    std::vector<std::int32_t> positions(rows);
    std::vector<std::int64_t> slots(rows);
    for (int r = 0; r < rows; ++r) {
      positions[r] = one ? 1000 : r;
      slots[r] = one ? r * 64 + 20 : r;
    }
    const DeviceArray<std::int32_t> device_positions(positions);
    const DeviceArray<std::int64_t> device_slots(slots);
    const int pages = std::max(rows / 64, 16);
    std::vector<float> cosines(8192 * 64), sines(8192 * 64);
    for (int i = 0; i < 8192 * 64; ++i) {
      const double angle = (i / 64) * std::pow(500000.0, -(i % 64) / 64.0);
      cosines[i] = static_cast<float>(std::cos(angle));
      sines[i] = static_cast<float>(std::sin(angle));
    }
    const DeviceArray<float> device_cosines(cosines), device_sines(sines);
    const DeviceArray<std::uint16_t> keys(pages * 8 * 64 * 128),
        values(pages * 8 * 64 * 128), bounds(pages * 8 * 2 * 128);
    RopeRowsArgs args;
    args.rows = rows;
    args.qkv = scratch_.data();
    args.qkv_stride = 6144;
    args.heads = 32;
    args.positions = device_positions.data();
    args.kv_slots = device_slots.data();
    args.pages_have_one_row = one;
    args.cosines = device_cosines.data();
    args.sines = device_sines.data();
    args.kv = {keys.data(), values.data(), pages,  8,
               128,         bounds.data(), nullptr};
    for (RotatedPairs pairs :
         {RotatedPairs::kAdjacent, RotatedPairs::kHalves}) {
      args.pairs = pairs;
      if (!Run(
              {pairs == RotatedPairs::kHalves ? "rope halves" : "rope adjacent",
               rows, rows * 6144.0 * 4, 16},
              [&](int, cudaStream_t stream) {
                return LaunchRopeAndStore(args, stream).ok();
              })) {
        return false;
      }
    }
    return true;
  }

  bool RunProducts() {
    struct Layer {
      const char* name;
      int outputs, inputs;
      bool accumulates, is_bf16;
    };
    for (const Layer& layer :
         std::vector<Layer>{{"qkv 6144x4096", 6144, 4096, false, true},
                            {"o 4096x4096", 4096, 4096, true, false},
                            {"gate_up 28672x4096", 28672, 4096, false, true},
                            {"down 4096x14336", 4096, 14336, true, false},
                            {"head 128256x4096", 128256, 4096, false, false}}) {
      const std::int64_t weight = std::int64_t{layer.outputs} * layer.inputs;
      const int copies = static_cast<int>(
          std::min(kPoolBytes / 2 / weight,
                   std::max<std::int64_t>(2, kColdBytes / (2 * weight) + 1)));
      for (int rows : {1, 2, 4, 8, 16}) {
        FewRowsProductArgs args;
        args.rows = rows;
        args.input = pool_.data();
        args.input_stride = args.inputs = layer.inputs;
        args.weight = pool_.data();
        args.output = scratch_.data();
        args.output_stride = args.outputs = layer.outputs;
        args.output_is_bf16 = layer.is_bf16;
        args.accumulates = layer.accumulates;
        if (!IsRight(args)) return false;
        const int launches = copies < 16 ? copies * 2 : copies;
        if (!Run({layer.name, rows, weight * 2.0, launches},
                 [&](int i, cudaStream_t stream) {
                   FewRowsProductArgs launch = args;
                   launch.weight = pool_.data() + i % copies * weight;
                   return product_.Run(launch, stream).ok();
                 })) {
          return false;
        }
      }
    }
    return true;
  }

  float PoolAt(std::int64_t element) const {
    return FromBfloat16(period_[element % kPeriod]);
  }

  bool IsRight(FewRowsProductArgs args) {
    args.accumulates = false;
    args.output_is_bf16 = false;
    if (!product_.Run(args, nullptr).ok() ||
        cudaDeviceSynchronize() != cudaSuccess) {
      std::printf("product failed: %s\n",
                  cudaGetErrorString(cudaGetLastError()));
      return false;
    }
    for (int sample = 0; sample < 32; ++sample) {
      const int row = sample % args.rows;
      const int output =
          static_cast<int>(std::int64_t{sample} * 104729 % args.outputs);
      double expected = 0, magnitude = 0;
      for (int k = 0; k < args.inputs; ++k) {
        const double term =
            double{PoolAt(std::int64_t{row} * args.inputs + k)} *
            PoolAt(std::int64_t{output} * args.inputs + k);
        expected += term;
        magnitude += std::abs(term);
      }
      float actual = 0;
      cudaMemcpy(&actual, scratch_.data() + row * args.output_stride + output,
                 4, cudaMemcpyDeviceToHost);
      if (std::abs(actual - expected) <= magnitude * 4e-6) continue;
      std::printf("wrong: rows %d, row %d, output %d: %g, not %g\n", args.rows,
                  row, output, actual, expected);
      return false;
    }
    return true;
  }

  const FewRowsProduct& product_;
  const std::string device_;
  FILE* const csv_;
  const std::vector<std::uint16_t> period_;
  const DeviceArray<std::uint16_t> pool_;
  const DeviceArray<float> scratch_;
  const DeviceArray<std::uint32_t> sink_;
  const DeviceArray<float> gains_;
  double copy_rate_ = kCopyRate, read_rate_ = kCopyRate;
};

int RunAll(FILE* csv) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
    std::printf("no CUDA device\n");
    return 1;
  }
  std::unique_ptr<FewRowsProduct> product;
  if (const auto status = FewRowsProduct::Create(&product); !status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return 1;
  }
  std::printf("%s, %d multiprocessors\n", properties.name,
              properties.multiProcessorCount);
  return RowKernelsBench(*product, properties.name, csv).RunAll() ? 0 : 1;
}

}  // namespace
}  // namespace sparseserve::cuda

int main(int argc, char** argv) {
  FILE* csv = nullptr;
  if (argc == 2 && std::strncmp(argv[1], "--csv=", 6) == 0) {
    csv = std::fopen(argv[1] + 6, "w");
  }
  if (argc > 2 || (argc == 2 && csv == nullptr)) {
    std::fprintf(stderr, "usage: row_kernels_bench [--csv=FILE]\n");
    return 2;
  }
  const int code = sparseserve::cuda::RunAll(csv);
  if (csv != nullptr) std::fclose(csv);
  return code;
}
