// Prefill attention of one sequence on a GPU: dense and over random lists, at
// the head shape of an 8B model. Prints a table; --csv=FILE writes it down.
// --cases=means: lists that visit a given number of blocks on average;
// --cases=densities: shares of what causality shows, up to 128K tokens; both
// by default. --write_lists=FOLDER: the lists of 128-blocks for others to
// attend over, see WriteLists.
//
// "tiles": TFLOP/s over listed blocks of 64 rows x 64 keys, also where half of
// a block is masked, so that dense and lists are counted alike. "causal":
// TFLOP/s over tokens^2 / 2, what others quote for dense. A result is checked
// on sampled rows before it is timed.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cuda/prefill_attention.h"
#include "tests/bench/cuda/launch_graph.h"
#include "tests/engine/backend/cuda/attention_batch.h"
#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/list_kinds.h"

namespace sparseserve::cuda {
namespace {

struct Repetitions {
  int warm_ups, timed;
};

// Dense attention over 128K tokens takes a fifth of a second.
Repetitions RepetitionsFor(int tokens) {
  return tokens > 65536 ? Repetitions{3, 9} : Repetitions{10, 31};
}

// Lists of blocks of `block_tokens`, `density` of what causality shows, each KV
// head's own; the diagonal and the first block always. 1: dense.
struct ListShape {
  const char* name;
  int block_tokens;
  double density;
};

struct Figures {
  double median_ms = 0, fastest_ms = 0;
  int repetitions = 0;
  double blocks_a_row = 0;  // listed blocks of 128 keys, on average
  double tile_tflops = 0;
  double causal_tflops = 0;
};

// Blocks before `diagonal` that a row of blocks visits, ascending.
std::vector<int> ChooseBlocks(int diagonal, double density,
                              std::mt19937& random) {
  std::vector<int> others;
  for (int block = 1; block < diagonal; ++block) others.push_back(block);
  std::shuffle(others.begin(), others.end(), random);
  const int forced = diagonal > 0 ? 2 : 1;
  const int wanted =
      static_cast<int>(std::lround(density * (diagonal + 1))) - forced;
  others.resize(std::clamp(wanted, 0, std::max(0, diagonal - 1)));
  if (diagonal > 0) others.push_back(0);
  std::sort(others.begin(), others.end());
  return others;
}

// Of the tile at `diagonal` (in blocks of 64): the row's blocks, and of its
// diagonal block what is not behind the tile.
void AddList(const std::vector<int>& blocks, int block_pages, int diagonal,
             HostLists& lists) {
  for (int block : blocks) {
    for (int i = 0; i < block_pages; ++i) {
      lists.full_blocks.push_back(block * block_pages + i);
    }
  }
  for (int page = diagonal / block_pages * block_pages; page < diagonal;
       ++page) {
    lists.full_blocks.push_back(page);
  }
  lists.partial_blocks.push_back(diagonal);
}

void FillRandomLists(const ListShape& shape, std::mt19937& random,
                     HostBatch& batch) {
  const int block_pages = shape.block_tokens / 64;
  const int kv_heads = batch.shape.kv_heads;
  std::vector<std::vector<int>> chosen(kv_heads);
  HostLists& lists = batch.lists;
  for (int tile = 0; tile < lists.tiles(); ++tile) {
    for (int head = 0; head < kv_heads; ++head) {
      if (tile % block_pages == 0) {
        chosen[head] = ChooseBlocks(tile / block_pages, shape.density, random);
      }
      AddList(chosen[head], block_pages, tile, lists);
      lists.list_of.push_back(lists.EndList());
    }
  }
  OrderByLength(batch);
}

// Writes 32-bit integers: tokens of a block, KV heads, rows of blocks; then
// [KV heads, rows]: how many blocks before the diagonal a row visits; then
// those, ascending, in the same order. The diagonal block is visited always
// and not written. REQUIRES: lists by FillRandomLists for `block_tokens`.
// False if the file cannot be written.
bool WriteLists(const HostBatch& batch, int block_tokens,
                const std::string& path) {
  const HostLists& lists = batch.lists;
  const int block_pages = block_tokens / 64, kv_heads = batch.shape.kv_heads;
  const int rows = lists.tiles() / block_pages;
  std::vector<std::int32_t> counts, blocks;
  for (int head = 0; head < kv_heads; ++head) {
    for (int row = 0; row < rows; ++row) {
      // Of the row's first tile: it lists no part of the diagonal block as
      // full.
      const int list = lists.list_of[row * block_pages * kv_heads + head];
      const std::int64_t begin = lists.full_offsets[list];
      const std::int64_t end = lists.full_offsets[list + 1];
      counts.push_back(static_cast<std::int32_t>((end - begin) / block_pages));
      for (std::int64_t i = begin; i < end; i += block_pages) {
        blocks.push_back(lists.full_blocks[i] / block_pages);
      }
    }
  }
  std::vector<std::int32_t> words = {block_tokens, kv_heads, rows};
  words.insert(words.end(), counts.begin(), counts.end());
  words.insert(words.end(), blocks.begin(), blocks.end());
  FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return false;
  const bool written = std::fwrite(words.data(), sizeof words[0], words.size(),
                                   file) == words.size();
  return std::fclose(file) == 0 && written;
}

// HEAD_DIM_TOKENS_LISTS.bin, with _ for whatever is no letter or digit.
std::string ListsFileName(int head_dim, int tokens, const ListShape& shape) {
  std::string name = std::to_string(head_dim) + "_" + std::to_string(tokens) +
                     "_" + shape.name;
  for (char& character : name) {
    if (!std::isalnum(static_cast<unsigned char>(character))) character = '_';
  }
  return name + ".bin";
}

std::int64_t ListedBlocks(const HostBatch& batch) {
  const HostLists& lists = batch.lists;
  std::int64_t blocks = 0;
  for (int list : lists.list_of) {
    blocks += lists.full_offsets[list + 1] - lists.full_offsets[list] +
              lists.partial_offsets[list + 1] - lists.partial_offsets[list];
  }
  return blocks;
}

// Whether sampled rows are near the reference.
bool IsRight(const DeviceBatch& device, std::mt19937& random) {
  const HostBatch& batch = *device.host;
  const int width = batch.shape.head_dim;
  for (int sample = 0; sample < 12; ++sample) {
    const int tile =
        sample == 0 ? batch.lists.tiles() - 1 : random() % batch.lists.tiles();
    const int tile_row = random() % batch.lists.tile_fields[tile * 4 + 2];
    const int head = random() % batch.heads();
    const std::int64_t at = (batch.lists.tile_fields[tile * 4 + 1] + tile_row) *
                                std::int64_t{batch.heads()} +
                            head;
    std::vector<std::uint16_t> output(width);
    float lse;
    cudaMemcpy(output.data(), device.output.data() + at * width, width * 2,
               cudaMemcpyDeviceToHost);
    cudaMemcpy(&lse, device.lse.data() + at, 4, cudaMemcpyDeviceToHost);
    const ReferenceRow expected =
        ReferenceAttention(batch, tile, tile_row, head);
    bool near = std::abs(lse - expected.lse) <= LseTolerance(expected.lse);
    for (int i = 0; i < width; ++i) {
      near = near &&
             std::abs(FromBfloat16(output[i]) - expected.output[i]) <=
                 OutputTolerance(expected.output[i], expected.magnitude[i]);
    }
    if (!near) {
      std::printf("wrong: tile %d, row %d, head %d\n", tile, tile_row, head);
      return false;
    }
  }
  return true;
}

// Launches of one graph, as attention_peers.py has them: what the host does
// before a short launch is not attention's time.
int LaunchesFor(int tokens) { return std::max(1, 65536 / tokens); }

// Milliseconds of a launch in each repetition, ascending; empty if one failed.
std::vector<float> Time(const PrefillAttention& attention,
                        const PrefillAttentionArgs& args,
                        Repetitions repetitions, int launches) {
  LaunchGraph graph;
  const bool captured = graph.Capture([&](cudaStream_t stream) {
    for (int i = 0; i < launches; ++i) {
      if (!attention.Run(args, stream).ok()) return false;
    }
    return true;
  });
  if (!captured) return {};
  std::vector<float> times =
      graph.Time(repetitions.warm_ups, repetitions.timed);
  for (float& time : times) time /= static_cast<float>(launches);
  return times;
}

// SM clock in MHz, power in W and temperature in C while `args` keeps the
// device busy, as nvidia-smi prints them.
std::string ClocksUnder(const PrefillAttention& attention,
                        const PrefillAttentionArgs& args, double ms) {
  const int launches = std::clamp(static_cast<int>(200 / ms), 1, 2000);
  for (int i = 0; i < launches; ++i) {
    if (!attention.Run(args, nullptr).ok()) return "unknown";
  }
  std::string line = "unknown";
  if (FILE* pipe =
          popen("nvidia-smi --query-gpu=clocks.sm,power.draw,temperature.gpu "
                "--format=csv,noheader,nounits -i 0",
                "r")) {
    char buffer[256] = "";
    if (std::fgets(buffer, sizeof buffer, pipe) != nullptr) {
      line = std::string(buffer, std::strcspn(buffer, "\n"));
    }
    pclose(pipe);
  }
  cudaDeviceSynchronize();
  return line;
}

Figures FiguresOf(const HostBatch& batch, const std::vector<float>& times) {
  Figures figures;
  figures.median_ms = times[times.size() / 2];
  figures.fastest_ms = times.front();
  figures.repetitions = static_cast<int>(times.size());
  const double blocks = ListedBlocks(batch);
  const double flop_a_key = 4.0 * batch.shape.head_dim;
  const double tokens = batch.shape.slices[0].rows;
  figures.blocks_a_row = blocks / batch.lists.list_of.size() / 2;
  figures.tile_tflops = flop_a_key * blocks * batch.shape.group * 64 * 64 /
                        figures.median_ms / 1e9;
  figures.causal_tflops = flop_a_key * batch.heads() * tokens * tokens / 2 /
                          figures.median_ms / 1e9;
  return figures;
}

struct Options {
  FILE* csv = nullptr;       // may be null
  std::string lists_folder;  // empty: lists are not written
  bool means = true, densities = true;
};

class PrefillAttentionBench {
 public:
  PrefillAttentionBench(const PrefillAttention& attention, std::string device,
                        const Options& options)
      : attention_(attention),
        device_(std::move(device)),
        csv_(options.csv),
        lists_folder_(options.lists_folder) {
    std::printf("%-5s %-7s %-22s %8s %10s %10s %8s %8s %9s  %s\n", "dim",
                "tokens", "lists", "blocks", "median ms", "fastest ms", "tiles",
                "causal", "of dense", "MHz, W, C");
    if (csv_ != nullptr) {
      std::fprintf(csv_,
                   "device,head_dim,heads,kv_heads,tokens,lists,"
                   "blocks_of_128_a_row,median_ms,fastest_ms,repetitions,"
                   "tile_tflops,causal_tflops,of_dense,sm_mhz,watt,celsius\n");
    }
  }

  // False if a result is wrong, a launch fails or lists cannot be written.
  bool Run(int head_dim, int tokens, const std::vector<ListShape>& shapes) {
    std::mt19937 random(1);
    HostBatch batch = MakeBatch({head_dim, 8, 4, {{0, tokens}}}, random);
    const HostLists tiles_alone = batch.lists;
    double dense_tflops = 0;
    for (const ListShape& shape : shapes) {
      batch.lists = tiles_alone;
      if (shape.density == 1.0) {
        FillLists(ListKind::kDense, random, batch);
      } else {
        FillRandomLists(shape, random, batch);
        if (!MayWriteLists(batch, tokens, shape)) return false;
      }
      const DeviceBatch device(batch);
      const PrefillAttentionArgs args = device.Args();
      const LaunchStatus status = attention_.Run(args, nullptr);
      const cudaError_t error = cudaDeviceSynchronize();
      if (!status.ok() || error != cudaSuccess) {
        std::printf("failed: %s %s\n", status.message().c_str(),
                    cudaGetErrorString(error));
        return false;
      }
      if (!IsRight(device, random)) return false;
      const std::vector<float> times =
          Time(attention_, args, RepetitionsFor(tokens), LaunchesFor(tokens));
      if (times.empty()) return false;
      const Figures figures = FiguresOf(batch, times);
      if (shape.density == 1.0) dense_tflops = figures.tile_tflops;
      Print(batch, tokens, shape, figures, figures.tile_tflops / dense_tflops,
            ClocksUnder(attention_, args, figures.median_ms));
    }
    return true;
  }

 private:
  // False if they should be written and cannot.
  bool MayWriteLists(const HostBatch& batch, int tokens,
                     const ListShape& shape) const {
    if (lists_folder_.empty() || shape.block_tokens != 128) return true;
    const std::string path = lists_folder_ + "/" +
                             ListsFileName(batch.shape.head_dim, tokens, shape);
    if (WriteLists(batch, shape.block_tokens, path)) return true;
    std::printf("cannot write %s\n", path.c_str());
    return false;
  }

  void Print(const HostBatch& batch, int tokens, const ListShape& shape,
             const Figures& f, double of_dense, const std::string& clocks) {
    const double causal = shape.density == 1.0 ? f.causal_tflops : 0;
    std::printf("%-5d %-7d %-22s %8.1f %10.4f %10.4f %8.1f %8.1f %9.3f  %s\n",
                batch.shape.head_dim, tokens, shape.name, f.blocks_a_row,
                f.median_ms, f.fastest_ms, f.tile_tflops, causal, of_dense,
                clocks.c_str());
    std::fflush(stdout);
    if (csv_ == nullptr) return;
    std::fprintf(csv_,
                 "%s,%d,%d,%d,%d,%s,%.2f,%.5f,%.5f,%d,%.2f,%.2f,%.4f,%s\n",
                 device_.c_str(), batch.shape.head_dim, batch.heads(),
                 batch.shape.kv_heads, tokens, shape.name, f.blocks_a_row,
                 f.median_ms, f.fastest_ms, f.repetitions, f.tile_tflops,
                 causal, of_dense, clocks.c_str());
    std::fflush(csv_);
  }

  const PrefillAttention& attention_;
  const std::string device_;
  FILE* const csv_;
  const std::string lists_folder_;
};

// Densities by which a row of 128 tokens visits 8, 16 or 32 blocks of 128 on
// average.
bool RunMeans(PrefillAttentionBench& bench, int head_dim) {
  return bench.Run(head_dim, 8192,
                   {{"dense", 64, 1.0},
                    {"128 mean 8", 128, 16.0 / 65},
                    {"128 mean 16", 128, 32.0 / 65}}) &&
         bench.Run(head_dim, 32768,
                   {{"dense", 64, 1.0},
                    {"128 mean 8", 128, 16.0 / 257},
                    {"128 mean 16", 128, 32.0 / 257},
                    {"128 mean 32", 128, 64.0 / 257},
                    {"64 at 10 %", 64, 0.1}});
}

bool RunDensities(PrefillAttentionBench& bench) {
  return bench.Run(128, 32768,
                   {{"dense", 64, 1.0},
                    {"128 at 5 %", 128, 0.05},
                    {"128 at 10 %", 128, 0.1},
                    {"128 at 25 %", 128, 0.25}}) &&
         bench.Run(128, 131072,
                   {{"dense", 64, 1.0}, {"128 at 10 %", 128, 0.1}}) &&
         bench.Run(64, 131072, {{"dense", 64, 1.0}});
}

int RunAll(const Options& options) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
    std::printf("no CUDA device\n");
    return 1;
  }
  std::unique_ptr<PrefillAttention> attention;
  if (const auto status = PrefillAttention::Create(&attention); !status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return 1;
  }
  std::printf("%s, %d multiprocessors\n", properties.name,
              properties.multiProcessorCount);
  PrefillAttentionBench bench(*attention, properties.name, options);
  bool right = true;
  for (int head_dim : {128, 64}) {
    right = right && (!options.means || RunMeans(bench, head_dim));
  }
  right = right && (!options.densities || RunDensities(bench));
  return right ? 0 : 1;
}

// Whether `argument` is known and good.
bool Parse(const std::string& argument, Options& options) {
  const std::size_t equals = argument.find('=');
  if (equals == std::string::npos || equals + 1 == argument.size()) {
    return false;
  }
  const std::string name = argument.substr(0, equals);
  const std::string value = argument.substr(equals + 1);
  if (name == "--csv" && options.csv == nullptr) {
    options.csv = std::fopen(value.c_str(), "w");
    return options.csv != nullptr;
  }
  if (name == "--write_lists") {
    options.lists_folder = value;
    return true;
  }
  if (name != "--cases") return false;
  options.means = value == "means";
  options.densities = value == "densities";
  return options.means || options.densities;
}

}  // namespace
}  // namespace sparseserve::cuda

int main(int argc, char** argv) {
  sparseserve::cuda::Options options;
  for (int i = 1; i < argc; ++i) {
    if (sparseserve::cuda::Parse(argv[i], options)) continue;
    std::fprintf(stderr,
                 "unknown or unusable: %s\n"
                 "usage: prefill_attention_bench [--csv=FILE] "
                 "[--cases=means|densities] [--write_lists=FOLDER]\n",
                 argv[i]);
    return 2;
  }
  const int code = sparseserve::cuda::RunAll(options);
  if (options.csv != nullptr) std::fclose(options.csv);
  return code;
}
