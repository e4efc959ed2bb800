// What the last rows attend to, and lists from it, for compute capability 8.0
// and later: four launches for all heads of the slices that fit into the
// workspace, and one for the order.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "engine/backend/cuda/chosen_lists.cuh"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/flex_prefill_choice.cuh"
#include "engine/backend/cuda/last_rows_choice.cuh"
#include "engine/backend/cuda/last_rows_selection.h"
#include "engine/backend/cuda/last_rows_sums.cuh"
#include "engine/backend/cuda/last_rows_work.cuh"
#include "engine/backend/cuda/selection_checks.h"

namespace sparseserve::cuda {
namespace {

constexpr int kListWarps = 8;  // of a thread block
constexpr float kLog2E = 1.4426950408889634f;

// Whether a bit is set of the 64 from `begin` on, and, block by block, of the
// 64 before those.
class BitWindow {
 public:
  __device__ __forceinline__ BitWindow(const std::uint64_t* words, int begin)
      : words_(words + (begin >> 6)),
        upper_((std::uint64_t{1} << (begin & 63)) - 1) {}
  // Bits, not where they are. REQUIRES: the window begins at bit 0 or later.
  __device__ __forceinline__ std::uint64_t Before(int blocks) const {
    return (words_[-blocks] & ~upper_) | (words_[1 - blocks] & upper_);
  }

 private:
  const std::uint64_t* words_;
  std::uint64_t upper_;  // what of the next word is within
};

// What a tile and KV head visit.
struct TileChoice {
  const LastRowsWork& work;
  int head;
  const LastRowsRule& rule;
  const std::uint64_t* columns;
  const std::uint64_t* distances;
  bool is_everything;

  // Of a chosen distance, the keys that the last and the first row meet.
  BitWindow last, first;
  int own;

  __device__ __forceinline__ TileChoice(const LastRowsWork& all, int number,
                                        int rule_number, const int4& tile)
      : work(all),
        head(number),
        rule(all.rules[rule_number]),
        columns(all.chosen + std::int64_t{number} * 2 * all.args.most_blocks),
        distances(columns + all.args.most_blocks),
        last(distances, tile.w + tile.z - 1 - 63),
        first(distances, tile.w - 63),
        own(BlockOf(tile)) {
    const std::int32_t* flags = all.is_everything + number * 3;
    is_everything = flags[kColumns] != 0 || flags[kDiagonals] != 0 ||
                    (rule.is_flex && flags[2] != 0);
  }

  // Whether the tile visits a block before its own. Loads do not wait for each
  // other.
  __device__ __forceinline__ bool Has(int block) const {
    if (is_everything) return true;
    if (!rule.is_flex) {
      const std::uint64_t found =
          columns[block] | last.Before(block) | first.Before(block);
      return block == 0 || found != 0;
    }
    if (block == 0 || (columns[block] | distances[own - block]) != 0) {
      return true;
    }
    if (work.is_query_aware[head] == 0) return false;
    const std::uint32_t score = __float_as_uint(work.Map(head, own)[block]);
    const MapCut cut = work.map_cuts[head];
    return score > cut.threshold ||
           (score == cut.threshold &&
            (own < cut.last_tile_block ||
             (own == cut.last_tile_block && block <= cut.last_block)));
  }
};

// A warp for each pair of tile and KV head.
__global__ void __launch_bounds__(kListWarps * 32)
    ListBlocks(const LastRowsWork work) {
  WaitForDependency();
  LetDependentsStart();
  const BlockSelectionArgs& args = work.args;
  const int lane = threadIdx.x % 32;
  const std::int64_t pair =
      std::int64_t{blockIdx.x} * kListWarps + threadIdx.x / 32;
  if (pair >= std::int64_t{args.tiles} * args.kv.kv_heads) return;
  const int tile_number = static_cast<int>(pair / args.kv.kv_heads);
  int low = 0, high = args.slices;  // first_tiles[low] <= tile_number
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (args.first_tiles[middle] <= tile_number ? low : high) = middle;
  }
  const int slice = low - work.first_slice;
  if (slice < 0 || slice >= work.slices) return;
  if (args.rule_of[pair] < 0) {
    if (lane == 0 && args.base_list_of != nullptr) {
      args.chosen.list_of[pair] = args.base_list_of[pair];
    }
    return;
  }
  const int4 tile = TileFields(args, tile_number);
  const int own = BlockOf(tile);
  const int head =
      slice * args.kv.kv_heads + static_cast<int>(pair % args.kv.kv_heads);
  const TileChoice choice(work, head, args.rule_of[pair], tile);
  std::int32_t* const full = ChosenBlocks(args, pair);
  int count = 0;
  constexpr int kTurns = 4;  // whose loads are under way at once
  for (int first = 0; first < own; first += kTurns * 32) {
    bool is_listed[kTurns];
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int block = first + turn * 32 + lane;
      is_listed[turn] = block < own && choice.Has(block);
    }
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const unsigned listed = __ballot_sync(0xffffffffu, is_listed[turn]);
      if (is_listed[turn]) {
        full[count + __popc(listed & ((1u << lane) - 1))] =
            first + turn * 32 + lane;
      }
      count += __popc(listed);
    }
  }
  EndChosenList(args, pair, tile, count);
}

// A thread block for each KV head and kOrderTiles tiles.
__global__ void __launch_bounds__(kOrderThreads)
    OrderLists(const BlockSelectionArgs args) {
  WaitForDependency();
  LetDependentsStart();
  PlaceInOrder(args, blockIdx.x % args.kv.kv_heads,
               blockIdx.x / args.kv.kv_heads * kOrderTiles);
}

// Bytes of the workspace for a slice, and where its parts begin.
class Room {
 public:
  explicit Room(void* begin) : begin_(static_cast<char*>(begin)) {}
  template <class T>
  void Take(std::int64_t count, T** taken) {
    *taken = reinterpret_cast<T*>(begin_ + used_);
    used_ += (count * static_cast<std::int64_t>(sizeof(T)) + 255) / 256 * 256;
  }
  std::int64_t used() const { return used_; }

 private:
  char* begin_;
  std::int64_t used_ = 0;
};

// Bytes that are used for `slices` at once.
std::int64_t TakeParts(void* workspace, std::int64_t slices,
                       LastRowsWork* work) {
  Room room(workspace);
  const std::int64_t heads = slices * work->args.kv.kv_heads;
  const std::int64_t blocks = work->args.most_blocks;
  room.Take(heads * work->chunks * work->splits * work->chunk_heads * 64,
            &work->row_parts);
  room.Take(heads * work->chunks * blocks * 64, &work->key_sums);
  room.Take(heads * work->chunks * blocks * 128, &work->distance_parts);
  room.Take(heads * 2 * blocks * 64, &work->values);
  room.Take(heads * 2 * blocks, &work->chosen);
  room.Take(heads * 3, &work->is_everything);
  if (work->has_flex) {
    room.Take(heads * work->args.kv.head_dim * blocks, &work->key_means);
    room.Take(heads * (kMostGroup + 2) * blocks, &work->estimates);
    room.Take(heads, &work->is_query_aware);
    room.Take(heads * blocks * blocks, &work->map);
    room.Take(heads, &work->map_cuts);
  }
  return room.used();
}

struct DeviceLimits {
  int multiprocessors = 1;
  int shared_bytes = 0;  // of a thread block

  int ChunkHeads(int width) const {
    return SweepBytes(width, kMostChunkHeads) <= shared_bytes ? kMostChunkHeads
                                                              : 2;
  }
};

LaunchStatus GetLimits(DeviceLimits* limits) {
  int device = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  if (auto status = StatusOf(
          cudaDeviceGetAttribute(&limits->multiprocessors,
                                 cudaDevAttrMultiProcessorCount, device),
          "number of multiprocessors");
      !status.ok()) {
    return status;
  }
  return StatusOf(
      cudaDeviceGetAttribute(&limits->shared_bytes,
                             cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      "shared memory of a thread block");
}

// How many query heads a thread block takes, and how blocks are split.
void Divide(const DeviceLimits& limits, LastRowsWork* work) {
  const int group = work->group(), kv_heads = work->args.kv.kv_heads;
  work->chunk_heads = std::min(limits.ChunkHeads(work->args.kv.head_dim),
                               group == 3 ? 4 : group);
  work->chunks = (group + work->chunk_heads - 1) / work->chunk_heads;
  work->splits =
      std::clamp(2 * limits.multiprocessors / (kv_heads * work->chunks), 1,
                 (work->args.most_blocks + 1) / 2);
}

using Kernel = void (*)(LastRowsWork);

// Both passes over the keys.
struct Sweep {
  Kernel exponentials, weights;
  int width, chunk_heads;

  unsigned shared_bytes() const { return SweepBytes(width, chunk_heads); }
};

template <int kWidth, int kHeads>
constexpr Sweep MakeSweep() {
  return {SumExponentials<kWidth, kHeads>, SumWeights<kWidth, kHeads>, kWidth,
          kHeads};
}

constexpr Sweep kSweeps[] = {MakeSweep<64, 1>(),  MakeSweep<64, 2>(),
                             MakeSweep<64, 4>(),  MakeSweep<128, 1>(),
                             MakeSweep<128, 2>(), MakeSweep<128, 4>()};

const Sweep& SweepOf(int width, int chunk_heads) {
  const Sweep* sweep = kSweeps;
  while (sweep->width != width || sweep->chunk_heads != chunk_heads) ++sweep;
  return *sweep;
}

// Mean keys do not wait for sums, but a launch waits for all before it.
LaunchStatus LaunchFlexPrefill(const LastRowsWork& work, cudaStream_t stream) {
  const unsigned heads = work.slices * work.args.kv.kv_heads;
  const unsigned most_blocks = work.args.most_blocks;
  const unsigned tiles_at_once = kMostGroup / work.group();
  const std::pair<Kernel, LaunchShape> launches[] = {
      {PoolKeyBlocks,
       {heads * ((most_blocks + kPoolWarps - 1) / kPoolWarps), kPoolWarps * 32,
        0}},
      {DecideWay, {heads, kCutThreads, 0}},
      {ChooseBlocks, {heads * 2, kCutThreads, 0}},
      {ScoreMap,
       {heads * ((most_blocks + tiles_at_once - 1) / tiles_at_once),
        kMapThreads, 0}},
      {CutMap, {heads, kCutThreads, 0}},
  };
  for (const auto& [kernel, shape] : launches) {
    if (auto status = LaunchDependent(kernel, shape, work, stream,
                                      "launch of FlexPrefill's choice");
        !status.ok()) {
      return status;
    }
  }
  return LaunchStatus();
}

LaunchStatus LaunchSlices(const LastRowsWork& work, cudaStream_t stream) {
  const unsigned heads = work.slices * work.args.kv.kv_heads;
  const Sweep& sweep = SweepOf(work.args.kv.head_dim, work.chunk_heads);
  const LaunchShape shape = {heads * work.chunks * work.splits, kSweepThreads,
                             sweep.shared_bytes()};
  for (const Kernel kernel : {sweep.exponentials, sweep.weights}) {
    if (auto status = LaunchDependent(kernel, shape, work, stream,
                                      "launch of the last rows' sums");
        !status.ok()) {
      return status;
    }
  }
  const LaunchShape choice = {heads * 2, kCutThreads, 0};
  if (work.has_vertical_slash) {
    const Kernel kernel = work.args.most_blocks * 64 <= kHeldSums
                              ? ChooseLargest
                              : ChooseLargestOfMany;
    if (auto status = LaunchDependent(kernel, choice, work, stream,
                                      "launch of the last rows' choice");
        !status.ok()) {
      return status;
    }
  }
  if (work.has_flex) {
    if (auto status = LaunchFlexPrefill(work, stream); !status.ok()) {
      return status;
    }
  }
  const std::int64_t pairs =
      std::int64_t{work.args.tiles} * work.args.kv.kv_heads;
  LaunchShape lists;
  lists.thread_blocks =
      static_cast<unsigned>((pairs + kListWarps - 1) / kListWarps);
  lists.threads = kListWarps * 32;
  return LaunchDependent(Kernel{ListBlocks}, lists, work, stream,
                         "launch of the last rows' lists");
}

LaunchStatus CheckArguments(const BlockSelectionArgs& args) {
  if (args.rule_count < 0 || args.rule_count > LastRowsSelection::kMostRules) {
    return OutOfRange("rule_count", args.rule_count, "0 to 16");
  }
  return CheckSelection(args);
}

LaunchStatus TakeRule(const VerticalSlashRule& rule, LastRowsRule* taken) {
  if (rule.rows < 1 || rule.rows > 64) {
    return OutOfRange("rows", rule.rows, "1 to 64");
  }
  if (rule.columns < 0) {
    return OutOfRange("columns", rule.columns, "at least 0");
  }
  if (rule.diagonals < 0) {
    return OutOfRange("diagonals", rule.diagonals, "at least 0");
  }
  taken->rows = rule.rows;
  taken->counts[kColumns] = rule.columns;
  taken->counts[kDiagonals] = rule.diagonals;
  return LaunchStatus();
}

LaunchStatus TakeRule(const FlexPrefillRule& rule, LastRowsRule* taken) {
  if (!(rule.mass > 0)) {
    return LaunchStatus::Error("mass is " + std::to_string(rule.mass) +
                               "; must be above 0");
  }
  if (rule.least_blocks < 0) {
    return OutOfRange("least_blocks", rule.least_blocks, "at least 0");
  }
  taken->rows = 64;
  taken->is_flex = true;
  taken->mass = rule.mass;
  taken->divergence = rule.divergence;
  taken->least_blocks = rule.least_blocks;
  return LaunchStatus();
}

LaunchStatus TakeRule(int index, LastRowsWork* work) {
  const SelectionRule& rule = work->args.rules[index];
  if (const auto* by_count = std::get_if<VerticalSlashRule>(&rule)) {
    work->has_vertical_slash = true;
    return TakeRule(*by_count, &work->rules[index]);
  }
  if (const auto* by_mass = std::get_if<FlexPrefillRule>(&rule)) {
    work->has_flex = true;
    return TakeRule(*by_mass, &work->rules[index]);
  }
  return LaunchStatus::Error(
      "rule " + std::to_string(index) +
      " is of a kind that does not choose by the last rows on a GPU; "
      "VerticalSlashRule and FlexPrefillRule do");
}

LaunchStatus TakeRules(LastRowsWork* work) {
  for (int i = 0; i < work->args.rule_count; ++i) {
    if (auto status = TakeRule(i, work); !status.ok()) return status;
  }
  if (work->has_flex && work->group() > kMostGroup) {
    return OutOfRange("heads / kv_heads", work->group(),
                      "at most 16 for FlexPrefillRule");
  }
  return LaunchStatus();
}

}  // namespace

LaunchStatus LastRowsSelection::Create(
    std::int64_t workspace_bytes, std::unique_ptr<LastRowsSelection>* created) {
  DeviceLimits limits;
  if (auto status = GetLimits(&limits); !status.ok()) return status;
  for (const Sweep& sweep : kSweeps) {
    if (sweep.chunk_heads > limits.ChunkHeads(sweep.width)) continue;
    for (const Kernel kernel : {sweep.exponentials, sweep.weights}) {
      if (auto status =
              StatusOf(cudaFuncSetAttribute(
                           kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           sweep.shared_bytes()),
                       "shared memory for sums of the last rows");
          !status.ok()) {
        return status;
      }
    }
  }
  void* workspace = nullptr;
  if (auto status = StatusOf(cudaMalloc(&workspace, workspace_bytes),
                             "workspace of the last rows' choice");
      !status.ok()) {
    return status;
  }
  created->reset(new LastRowsSelection(
      workspace, workspace_bytes, limits.multiprocessors, limits.shared_bytes));
  return LaunchStatus();
}

LastRowsSelection::~LastRowsSelection() { cudaFree(workspace_); }

std::int64_t LastRowsSelection::BytesForSlice(
    const BlockSelectionArgs& args) const {
  LastRowsWork work;
  work.args = args;
  for (int i = 0; i < args.rule_count; ++i) {
    work.has_flex =
        work.has_flex || std::holds_alternative<FlexPrefillRule>(args.rules[i]);
  }
  Divide({multiprocessors_, shared_bytes_}, &work);
  return TakeParts(nullptr, 1, &work);
}

LaunchStatus LastRowsSelection::Run(const BlockSelectionArgs& args,
                                    CUstream_st* stream) const {
  if (args.tiles == 0) return LaunchStatus();
  if (auto status = CheckArguments(args); !status.ok()) return status;
  LastRowsWork work;
  work.args = args;
  work.factor = args.scale * kLog2E;
  if (auto status = TakeRules(&work); !status.ok()) return status;
  Divide({multiprocessors_, shared_bytes_}, &work);
  const std::int64_t of_slice = TakeParts(workspace_, 1, &work);
  if (of_slice > workspace_bytes_) {
    return LaunchStatus::Error("the workspace of the last rows' choice has " +
                               std::to_string(workspace_bytes_) +
                               " bytes; a slice of these arguments needs " +
                               std::to_string(of_slice));
  }
  // Parts are rounded up, so that more slices take no more than as many times
  // one.
  const int at_once = static_cast<int>(
      std::min<std::int64_t>(workspace_bytes_ / of_slice, args.slices));
  TakeParts(workspace_, at_once, &work);
  for (int first = 0; first < args.slices; first += at_once) {
    work.first_slice = first;
    work.slices = std::min(at_once, args.slices - first);
    if (auto status = LaunchSlices(work, stream); !status.ok()) return status;
  }
  LaunchShape order;
  order.thread_blocks = static_cast<unsigned>((args.tiles + kOrderTiles - 1) /
                                              kOrderTiles * args.kv.kv_heads);
  order.threads = kOrderThreads;
  return LaunchDependent(OrderLists, order, args, stream,
                         "launch of the order of lists");
}

}  // namespace sparseserve::cuda
