// Decode attention on a GPU at the head shape of an 8B model (32 query heads, 8
// KV heads, head_dim 128): dense, and lists of 10 % of the blocks. Prints a
// table; --csv=FILE writes it down.
//
// A repetition is a CUDA graph of launches over sequences of their own, so that
// keys and values come from memory: 1 GB of them passes between two visits, at
// 10 % a tenth of it or more, chosen anew for each launch of the graph.
// Times are a launch's, what lies between launches with them. Rates count the
// bytes of listed keys and values. A result is checked on sampled rows before
// it is timed.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/cuda/decode_attention.h"
#include "tests/bench/cuda/launch_graph.h"
#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/decode_batch.h"

namespace sparseserve::cuda {
namespace {

constexpr int kWarmUps = 10;
constexpr int kRepetitions = 31;
constexpr int kPoolBlocks = 4096;  // of each KV head: 1 GB in all
constexpr int kLaunches = 32;      // of one graph

struct Workload {
  int sequences = 1;
  int tokens = 0;
  double density = 1.0;
};

// Blocks of a sequence at random, the first and the last always.
std::vector<std::int32_t> ChooseBlocks(int blocks, double density,
                                       std::mt19937& random) {
  std::vector<std::int32_t> chosen(blocks);
  std::iota(chosen.begin(), chosen.end(), 0);
  std::shuffle(chosen.begin() + 1, chosen.end() - 1, random);
  const int wanted = static_cast<int>(std::lround(density * blocks));
  chosen.erase(chosen.begin() + std::max(wanted - 1, 1), chosen.end() - 1);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

// The workload several times, lists and queries with it: dense, as often as the
// pool holds it; sparse, for every launch, on the same pages.
HostDecodeBatch LayOut(const Workload& workload, std::mt19937& random) {
  const int blocks = workload.tokens / 64;
  HostDecodeBatch batch;
  const int held = kPoolBlocks / blocks;
  const int sequences =
      workload.density == 1.0 ? held : kLaunches * workload.sequences;
  batch.shape = {128, 8, 4, std::vector<int>(sequences, workload.tokens)};
  batch.scale = 1.0f / std::sqrt(128.0f);
  batch.pages = kPoolBlocks;
  batch.page_table_stride = blocks;
  std::vector<std::int32_t> pages(kPoolBlocks);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), random);
  for (int sequence = 0; sequence < sequences; ++sequence) {
    const auto first = pages.begin() + sequence % held * blocks;
    batch.page_tables.insert(batch.page_tables.end(), first, first + blocks);
  }
  batch.queries = RandomElements(
      std::int64_t{batch.sequences()} * batch.heads() * 128, random);
  for (int pair = 0; pair < batch.sequences() * 8; ++pair) {
    batch.block_offsets.push_back(batch.blocks.size());
    if (workload.density == 1.0) {
      batch.block_counts.push_back(kAllBlocks);
      continue;
    }
    const auto chosen = ChooseBlocks(blocks, workload.density, random);
    batch.block_counts.push_back(chosen.size());
    batch.blocks.insert(batch.blocks.end(), chosen.begin(), chosen.end());
  }
  // Lists have to lie somewhere.
  if (batch.blocks.empty()) batch.blocks.push_back(0);
  return batch;
}

// The workload's arguments for sequences from `first` on.
DecodeAttentionArgs ArgsFrom(const DeviceDecodeBatch& device,
                             const DeviceArray<std::uint16_t>& keys,
                             const DeviceArray<std::uint16_t>& values,
                             int first, int sequences) {
  DecodeAttentionArgs args = device.Args();
  args.sequences = sequences;
  args.kv.keys = keys.data();
  args.kv.values = values.data();
  args.queries = device.queries.data() + first * args.query_stride;
  args.output = device.output.data() + first * args.output_stride;
  args.lse = device.lse.data() + first * args.heads;
  args.lengths += first;
  args.kv.page_tables += first * args.kv.page_table_stride;
  args.lists.block_counts += first * args.kv.kv_heads;
  args.lists.block_offsets += first * args.kv.kv_heads;
  return args;
}

// Keys and values for all workloads, on both sides.
struct Pool {
  explicit Pool(std::mt19937& random)
      : host_keys(RandomElements(kElements, random)),
        host_values(RandomElements(kElements, random)),
        keys(host_keys),
        values(host_values) {}

  static constexpr std::int64_t kElements =
      std::int64_t{kPoolBlocks} * 8 * 64 * 128;
  std::vector<std::uint16_t> host_keys, host_values;
  DeviceArray<std::uint16_t> keys, values;
};

bool IsRight(Pool& pool, HostDecodeBatch& batch,
             const DeviceDecodeBatch& device, int sequences,
             std::mt19937& random) {
  batch.keys.swap(pool.host_keys);
  batch.values.swap(pool.host_values);
  bool right = true;
  for (int sample = 0; sample < 4 && right; ++sample) {
    const int sequence = random() % sequences, head = random() % 32;
    const int at = sequence * 32 + head;
    std::vector<std::uint16_t> output(128);
    float lse;
    cudaMemcpy(output.data(), device.output.data() + at * 128, 256,
               cudaMemcpyDeviceToHost);
    cudaMemcpy(&lse, device.lse.data() + at, 4, cudaMemcpyDeviceToHost);
    const ReferenceRow expected = ReferenceDecode(batch, sequence, head);
    right = std::abs(lse - expected.lse) <= LseTolerance(expected.lse);
    for (int i = 0; i < 128; ++i) {
      right = right &&
              std::abs(FromBfloat16(output[i]) - expected.output[i]) <=
                  OutputTolerance(expected.output[i], expected.magnitude[i]);
    }
    if (!right) std::printf("wrong: sequence %d, head %d\n", sequence, head);
  }
  batch.keys.swap(pool.host_keys);
  batch.values.swap(pool.host_values);
  return right;
}

class DecodeAttentionBench {
 public:
  DecodeAttentionBench(const DecodeAttention& attention, std::string device,
                       FILE* csv)
      : attention_(attention),
        device_(std::move(device)),
        csv_(csv),
        pool_(random_) {
    std::printf("%-9s %-7s %-7s %10s %10s %8s  %s\n", "sequences", "tokens",
                "density", "median us", "fastest us", "GB/s", "MHz, MHz, W, C");
    if (csv_ != nullptr) {
      std::fprintf(csv_,
                   "device,head_dim,heads,kv_heads,sequences,tokens,density,"
                   "listed_mb,median_us,fastest_us,repetitions,gb_s,sm_mhz,"
                   "memory_mhz,watt,celsius\n");
    }
  }

  // False if a result is wrong or a launch fails.
  bool Run(const Workload& workload) {
    HostDecodeBatch batch = LayOut(workload, random_);
    const DeviceDecodeBatch device(batch);
    const int distinct = batch.sequences() / workload.sequences;
    std::vector<DecodeAttentionArgs> launches;
    for (int i = 0; i < kLaunches; ++i) {
      launches.push_back(ArgsFrom(device, pool_.keys, pool_.values,
                                  i % distinct * workload.sequences,
                                  workload.sequences));
    }
    LaunchGraph graph;
    if (!graph.Capture([&](cudaStream_t stream) {
          bool queued = true;
          for (const DecodeAttentionArgs& args : launches) {
            queued = attention_.Run(args, stream).ok() && queued;
          }
          return queued;
        })) {
      return false;
    }
    graph.Launch();
    if (!graph.Wait()) {
      std::printf("failed: %s\n", cudaGetErrorString(cudaGetLastError()));
      return false;
    }
    if (!IsRight(pool_, batch, device, batch.sequences(), random_)) {
      return false;
    }
    const std::vector<float> times = graph.Time(kWarmUps, kRepetitions);
    if (times.empty()) return false;
    double blocks = 0;
    for (std::int32_t count : batch.block_counts) {
      blocks += count == kAllBlocks ? workload.tokens / 64 : count;
    }
    Print(workload, blocks / distinct * 64 * 128 * 4,
          times[times.size() / 2] * 1e3 / launches.size(),
          times.front() * 1e3 / launches.size(),
          graph.ClocksUnder(times.front()));
    return true;
  }

 private:
  void Print(const Workload& workload, double bytes, double median_us,
             double fastest_us, const std::string& clocks) {
    const double gb_s = bytes / median_us / 1e3;
    std::printf("%-9d %-7d %-7.2f %10.2f %10.2f %8.0f  %s\n",
                workload.sequences, workload.tokens, workload.density,
                median_us, fastest_us, gb_s, clocks.c_str());
    std::fflush(stdout);
    if (csv_ == nullptr) return;
    std::fprintf(csv_, "%s,128,32,8,%d,%d,%.2f,%.2f,%.3f,%.3f,%d,%.1f,%s\n",
                 device_.c_str(), workload.sequences, workload.tokens,
                 workload.density, bytes / 1e6, median_us, fastest_us,
                 kRepetitions, gb_s, clocks.c_str());
    std::fflush(csv_);
  }

  const DecodeAttention& attention_;
  const std::string device_;
  FILE* const csv_;
  std::mt19937 random_{1};
  Pool pool_;
};

int RunAll(FILE* csv) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
    std::printf("no CUDA device\n");
    return 1;
  }
  std::unique_ptr<DecodeAttention> attention;
  if (const auto status = DecodeAttention::Create(&attention); !status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return 1;
  }
  std::printf("%s, %d multiprocessors\n", properties.name,
              properties.multiProcessorCount);
  DecodeAttentionBench bench(*attention, properties.name, csv);
  bool right = true;
  for (double density : {1.0, 0.1}) {
    for (const auto& [sequences, tokens] : std::vector<std::pair<int, int>>{
             {8, 32768}, {32, 8192}, {64, 4096}, {1, 32768}, {1, 131072}}) {
      right = right && bench.Run({sequences, tokens, density});
    }
  }
  return right ? 0 : 1;
}

}  // namespace
}  // namespace sparseserve::cuda

int main(int argc, char** argv) {
  FILE* csv = nullptr;
  if (argc == 2 && std::strncmp(argv[1], "--csv=", 6) == 0) {
    csv = std::fopen(argv[1] + 6, "w");
  }
  if (argc > 2 || (argc == 2 && csv == nullptr)) {
    std::fprintf(stderr, "usage: decode_attention_bench [--csv=FILE]\n");
    return 2;
  }
  const int code = sparseserve::cuda::RunAll(csv);
  if (csv != nullptr) std::fclose(csv);
  return code;
}
