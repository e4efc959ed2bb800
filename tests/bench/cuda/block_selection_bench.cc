// Selection of blocks on a GPU at the head shape of an 8B model (32 query
// heads, 8 KV heads, head_dim 128), beside the attention that it feeds: prefill
// of 32K rows, where a rule's mass is such that its lists hold 10 % of the
// blocks, and decoding of 8 sequences of 32K. Prints a table; --csv=FILE writes
// it down. Random rows: choices mean nothing, times do.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cuda/block_selection.h"
#include "engine/backend/cuda/decode_selection.h"
#include "engine/backend/cuda/last_rows_selection.h"
#include "tests/engine/backend/cuda/attention_batch.h"
#include "tests/engine/backend/cuda/device_array.h"

namespace sparseserve::cuda {
namespace {

constexpr int kTokens = 32768, kBlocks = kTokens / 64;
constexpr int kWarmUps = 10, kRepetitions = 21;
constexpr double kBytesPerSecond = 4.5e12;

void Require(const LaunchStatus& status) {
  if (status.ok()) return;
  std::printf("failed: %s\n", status.message().c_str());
  std::exit(1);
}

// Median milliseconds of a CUDA graph of what `queue` queues.
double Time(const std::function<void(cudaStream_t)>& queue) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaStreamCreate(&stream);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  queue(stream);
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess ||
      cudaGraphInstantiate(&executable, graph, 0) != cudaSuccess) {
    std::printf("failed: capture\n");
    std::exit(1);
  }
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < kWarmUps + kRepetitions; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(executable, stream);
    cudaEventRecord(end, stream);
    if (cudaStreamSynchronize(stream) != cudaSuccess) {
      std::printf("failed: %s\n", cudaGetErrorString(cudaGetLastError()));
      std::exit(1);
    }
    float time = 0;
    cudaEventElapsedTime(&time, begin, end);
    if (i >= kWarmUps) times.push_back(time);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

std::string Clocks() {
  std::string line = "unknown";
  if (FILE* pipe = popen("nvidia-smi --query-gpu=clocks.sm,clocks.mem,"
                         "power.draw --format=csv,noheader,nounits -i 0",
                         "r")) {
    char buffer[256] = "";
    if (std::fgets(buffer, sizeof buffer, pipe) != nullptr) {
      line = std::string(buffer, std::strcspn(buffer, "\n"));
    }
    pclose(pipe);
  }
  return line;
}

struct Output {
  FILE* csv = nullptr;
  std::string device;
  void Print(const char* what, double density, double selection_us,
             double attention_us, double ratio) const {
    const std::string clocks = Clocks();
    std::printf(
        "%-26s density %.4f selection %9.2f us, other %9.2f us, ratio "
        "%.3f  %s\n",
        what, density, selection_us, attention_us, ratio, clocks.c_str());
    std::fflush(stdout);
    if (csv == nullptr) return;
    std::fprintf(csv, "%s,%s,%.4f,%.2f,%.2f,%.4f,%d,%s\n", device.c_str(), what,
                 density, selection_us, attention_us, ratio, kRepetitions,
                 clocks.c_str());
  }
};

// Listed blocks of those that causality allows.
double DensityOf(const std::vector<std::int32_t>& list_of,
                 const std::vector<std::int64_t>& full_offsets) {
  double listed = 0;
  for (int list : list_of) {
    listed += full_offsets[list + 1] - full_offsets[list] + 1;
  }
  return listed / (8.0 * kBlocks * (kBlocks + 1) / 2);
}

// By the last 64 rows. As many distances as keys, those that are always taken
// among them, or such a mass that the lists hold 10 %.
void RunLastRows(const Output& output, BlockSelectionArgs args,
                 const PrefillAttentionArgs& attended,
                 const PrefillAttention& attention,
                 const DeviceArray<std::int32_t>& list_of,
                 const DeviceArray<std::int64_t>& full_offsets) {
  std::unique_ptr<LastRowsSelection> selection;
  Require(LastRowsSelection::Create(std::int64_t{64} << 20, &selection));
  struct Case {
    const char* name;
    std::function<SelectionRule(float)> rule;  // of 0 to 1
  };
  const Case cases[] = {
      {"vertical-slash",
       [](float share) {
         const int more = static_cast<int>(share * 1000);
         return VerticalSlashRule{64, 30 + more, 100 + more};
       }},
      {"flex by last rows",
       [](float share) {
         return FlexPrefillRule{share, 0.0f, 0};
       }},
      {"flex by means",
       [](float share) {
         return FlexPrefillRule{share, 1.0f, 0};
       }},
  };
  for (const Case& c : cases) {
    SelectionRule rule;
    args.rules = &rule;
    double density = 0;
    float low = 0.0f, high = 1.0f;
    for (int i = 0; i < 10; ++i) {
      const float share = (low + high) / 2;
      rule = c.rule(share);
      Require(selection->Run(args, nullptr));
      density = DensityOf(list_of.Download(), full_offsets.Download());
      (density < 0.1 ? low : high) = share;
    }
    const double chosen =
        Time([&](cudaStream_t s) { Require(selection->Run(args, s)); });
    const double time =
        Time([&](cudaStream_t s) { Require(attention.Run(attended, s)); });
    output.Print(c.name, density, chosen * 1e3, time * 1e3, chosen / time);
  }
}

void RunPrefill(const Output& output) {
  std::mt19937 random(1);
  const HostBatch batch = MakeBatch({128, 8, 4, {{0, kTokens}}}, random);
  const int pairs = kBlocks * 8;
  const DeviceArray<std::uint16_t> queries(batch.queries), keys(batch.keys),
      values(batch.values);
  const DeviceArray<std::uint16_t> results(batch.queries.size());
  const DeviceArray<std::int32_t> tables(batch.page_tables),
      fields(batch.lists.tile_fields),
      first_tiles(std::vector<std::int32_t>{0, kBlocks}),
      rule_of(std::vector<std::int32_t>(pairs, 0)), list_of(pairs),
      order(pairs);
  BlockSelectionArgs args;
  args.queries = queries.data();
  args.query_stride = 32 * 128;
  args.heads = 32;
  args.kv = {keys.data(),   values.data(),          batch.pages, 8, 128,
             tables.data(), batch.page_table_stride};
  args.scale = batch.scale;
  args.tiles = kBlocks;
  args.tile_fields = fields.data();
  args.slices = 1;
  args.first_tiles = first_tiles.data();
  args.most_blocks = kBlocks;
  args.rule_count = 1;
  args.rule_of = rule_of.data();
  args.base_list_of = rule_of.data();  // all have a rule
  const DeviceArray<std::int64_t> full_offsets(args.chosen.OffsetsWith(pairs)),
      partial_offsets(full_offsets.size());
  const DeviceArray<std::int32_t> full(
      args.chosen.FullBlocksWith(pairs, kBlocks)),
      partial(args.chosen.PartialBlocksWith(pairs));
  args.chosen.list_of = list_of.data();
  args.chosen.full_offsets = full_offsets.data();
  args.chosen.full_blocks = full.data();
  args.chosen.partial_offsets = partial_offsets.data();
  args.chosen.partial_blocks = partial.data();
  args.chosen.order = order.data();
  const DeviceArray<float> means(MeanKeys(batch));
  std::unique_ptr<BlockSelection> selection;
  std::unique_ptr<PrefillAttention> attention;
  Require(BlockSelection::Create(std::int64_t{384} << 20, &selection));
  Require(PrefillAttention::Create(&attention));
  PrefillAttentionArgs attended;
  attended.queries = args.queries;
  attended.query_rows = batch.rows;
  attended.query_stride = args.query_stride;
  attended.heads = 32;
  attended.kv = args.kv;
  attended.lists = ListsOf(args);
  attended.scale = batch.scale;
  attended.output = results.data();
  attended.output_stride = args.query_stride;

  struct Case {
    const char* name;
    std::function<SelectionRule(float)> rule;
    const float* mean_keys = nullptr;
  };
  const auto pooled = [](float mass) { return SimilarityRule{-1.0f, mass}; };
  const Case cases[] = {
      {"pooled", pooled},
      // As they are where storing keys keeps them.
      {"pooled, means kept", pooled, means.data()},
      {"antidiagonal stride 16",
       [](float mass) {
         return AntidiagonalRule{16, mass};
       }},
      {"antidiagonal stride 8",
       [](float mass) {
         return AntidiagonalRule{8, mass};
       }},
  };
  for (const Case& c : cases) {
    SelectionRule rule;
    args.rules = &rule;
    args.mean_keys = c.mean_keys;
    double density = 0;
    float low = 0.0f, high = 1.0f;
    for (int i = 0; i < 9; ++i) {
      const float mass = (low + high) / 2;
      rule = c.rule(mass);
      Require(selection->Run(args, nullptr));
      density = DensityOf(list_of.Download(), full_offsets.Download());
      (density < 0.1 ? low : high) = mass;
    }
    const double chosen =
        Time([&](cudaStream_t s) { Require(selection->Run(args, s)); });
    const double time =
        Time([&](cudaStream_t s) { Require(attention->Run(attended, s)); });
    output.Print(c.name, density, chosen * 1e3, time * 1e3, chosen / time);
  }
  RunLastRows(output, args, attended, *attention, list_of, full_offsets);
}

void RunDecode(const Output& output) {
  // Launches of a graph visit sequences of their own: 4 GB of keys and values.
  constexpr int kSequences = 8, kLaunches = 8, kListed = 51;
  constexpr int kPages = kSequences * kLaunches * kBlocks;
  std::mt19937 random(2);
  const std::int64_t elements = std::int64_t{kPages} * 8 * 64 * 128;
  const DeviceArray<std::uint16_t> keys(elements), values(elements);
  const auto piece = RandomElements(elements / 64, random);
  for (int i = 0; i < 64; ++i) {
    for (std::uint16_t* to : {keys.data(), values.data()}) {
      cudaMemcpy(to + i * (elements / 64), piece.data(), elements / 64 * 2,
                 cudaMemcpyHostToDevice);
    }
  }
  const int all = kSequences * kLaunches;
  const DeviceArray<std::uint16_t> queries(
      RandomElements(std::int64_t{all} * 32 * 128, random)),
      bounds(RandomElements(elements / 32, random)),
      results(std::int64_t{all} * 32 * 128);
  std::vector<std::int32_t> pages(kPages);
  for (int i = 0; i < kPages; ++i) pages[i] = i;
  std::shuffle(pages.begin(), pages.end(), random);
  std::vector<std::int32_t> host_rules;
  for (int pair = 0; pair < all * 8; ++pair) {
    host_rules.insert(host_rules.end(), {kListed, 1, 2, 0});
  }
  const DeviceArray<std::int32_t> tables(pages),
      lengths(std::vector<std::int32_t>(all, kTokens)), rules(host_rules),
      counts(all * 8), blocks(std::int64_t{all} * 8 * kBlocks);
  const DeviceArray<std::int64_t> offsets(all * 8);
  std::unique_ptr<DecodeSelection> selection;
  std::unique_ptr<DecodeAttention> attention;
  Require(DecodeSelection::Create(std::int64_t{kSequences} * 8 * kBlocks,
                                  &selection));
  Require(DecodeAttention::Create(&attention));
  const auto queue = [&](int first, int how, bool attends, cudaStream_t s) {
    DecodeSelectionArgs args;
    args.sequences = kSequences;
    args.queries = queries.data() + std::int64_t{first} * 32 * 128;
    args.query_stride = 32 * 128;
    args.heads = 32;
    args.kv = {keys.data(), values.data(),
               kPages,      8,
               128,         tables.data() + std::int64_t{first} * kBlocks,
               kBlocks};
    args.lengths = lengths.data() + first;
    args.key_bounds = bounds.data();
    args.most_blocks = kBlocks;
    args.rules = rules.data() + std::int64_t{first} * 32;
    args.choice = {counts.data() + first * 8, offsets.data() + first * 8,
                   blocks.data(), std::int64_t{first} * 8 * kBlocks};
    if (how == 0) Require(selection->Run(args, s));
    if (how == 1) Require(selection->Extend(args, s));
    if (!attends) return;
    DecodeAttentionArgs attended;
    attended.sequences = kSequences;
    attended.queries = args.queries;
    attended.query_stride = args.query_stride;
    attended.heads = 32;
    attended.kv = args.kv;
    attended.lengths = args.lengths;
    attended.lists = {args.choice.block_counts, args.choice.block_offsets,
                      args.choice.blocks};
    attended.scale = 0.088f;
    attended.output = results.data() + std::int64_t{first} * 32 * 128;
    attended.output_stride = args.query_stride;
    Require(attention->Run(attended, s));
  };
  const auto time = [&](const std::function<int(int)>& how, bool attends) {
    return Time([&](cudaStream_t s) {
             for (int i = 0; i < kLaunches; ++i) {
               queue(i * kSequences, how(i), attends, s);
             }
           }) *
           1e3 / kLaunches;
  };
  const double least =
      kSequences * 8.0 * kListed * 64 * 128 * 2 * 2 / kBytesPerSecond * 1e6;
  const double density = kListed / static_cast<double>(kBlocks);
  const double alone = time([](int) { return 0; }, false);
  const double each = time([](int) { return 0; }, true);
  const double kept = time([](int i) { return i % 4 == 0 ? 0 : 1; }, true);
  const double attention_alone = time([](int) { return 2; }, true);
  output.Print("decode each step", density, alone, each, each / least);
  output.Print("decode reused 4 steps", density, alone, kept, kept / least);
  output.Print("decode without selection", density, 0, attention_alone,
               attention_alone / least);
}

}  // namespace
}  // namespace sparseserve::cuda

int main(int argc, char** argv) {
  using namespace sparseserve::cuda;
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
    std::printf("no CUDA device\n");
    return 1;
  }
  Output output;
  output.device = properties.name;
  if (argc > 1 && std::strncmp(argv[1], "--csv=", 6) == 0) {
    output.csv = std::fopen(argv[1] + 6, "w");
    if (output.csv == nullptr) return 2;
    std::fprintf(output.csv,
                 "device,case,density,selection_us,other_us,ratio,repetitions,"
                 "sm_mhz,memory_mhz,watt\n");
  }
  RunDecode(output);
  RunPrefill(output);
  if (output.csv != nullptr) std::fclose(output.csv);
  return 0;
}
