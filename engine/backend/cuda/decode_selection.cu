// Page bounds to lists for one row of each sequence, for compute capability 8.0
// and later.
//
// Work split: scores by warps, eight blocks of a pair of sequence and KV head
// each; the thread block that comes last of a pair's makes the choice.
// Memory traffic: each bound is read once, 4 * head_dim bytes a block and KV
// head, on its way already while the launch ahead ends; scores once each way
// through L2; of keys and values nothing.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/arrival_counter.cuh"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/decode_selection.h"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/page_choice.cuh"

namespace sparseserve::cuda {
namespace {

constexpr int kSelectionThreads = 256;
constexpr int kBlocksOfWarp = 8;
constexpr int kBlocksOfThreadBlock = kSelectionThreads / 32 * kBlocksOfWarp;
constexpr std::int64_t kMostPairs = 65535;  // of sequences and KV heads
constexpr int kExtendThreads = 32;
constexpr unsigned kAll = 0xffffffffu;

struct SelectionWork {
  DecodeSelectionArgs args;
  float* scores = nullptr;  // [pairs, most_blocks]
  // [pairs]: thread blocks whose scores are there. Zero whenever no launch is
  // under way.
  std::int32_t* counters = nullptr;
};

__device__ __forceinline__ int BlocksOf(int length) {
  return (length + 63) / 64;
}

// A thread block's part of the blocks of a pair. KV heads lie together, as
// their bounds do.
struct SelectionPart {
  int sequence = 0, kv_head = 0, pair = 0;
  int number = 0;       // of the pair's parts
  int first_block = 0;  // of this warp's

  __device__ __forceinline__ explicit SelectionPart(
      const DecodeSelectionArgs& args) {
    const int parts =
        (args.most_blocks + kBlocksOfThreadBlock - 1) / kBlocksOfThreadBlock;
    const int rest = blockIdx.x / args.kv.kv_heads;
    kv_head = blockIdx.x % args.kv.kv_heads;
    sequence = rest / parts;
    number = rest % parts;
    pair = sequence * args.kv.kv_heads + kv_head;
    first_block =
        number * kBlocksOfThreadBlock + threadIdx.x / 32 * kBlocksOfWarp;
  }
};

template <int kHeadDim>
__device__ __forceinline__ const __nv_bfloat16* BoundsOf(
    const DecodeSelectionArgs& args, int page, int kv_head) {
  return static_cast<const __nv_bfloat16*>(args.key_bounds) +
         (static_cast<std::int64_t>(page) * args.kv.kv_heads + kv_head) * 2 *
             kHeadDim;
}

// Of lane l, the page of block l % 8 of its warp's, if the table has an entry;
// not by caches that do not see what other multiprocessors write.
__device__ __forceinline__ int PageOfLane(const DecodeSelectionArgs& args,
                                          const SelectionPart& part) {
  const int block = part.first_block + threadIdx.x % kBlocksOfWarp;
  if (block >= args.kv.page_table_stride) return 0;
  return __ldcg(args.kv.page_tables +
                part.sequence * args.kv.page_table_stride + block);
}

// Asks for the bounds while the launch ahead may still write: what it has not
// written yet only makes the wish a wrong one.
template <int kHeadDim>
__device__ __forceinline__ void FetchBounds(const DecodeSelectionArgs& args,
                                            const SelectionPart& part) {
  constexpr int kLines = kHeadDim * 4 / 128;  // of a block
  const int lane = threadIdx.x % 32;
  const int block = part.first_block + lane / kLines;
  if (lane >= kBlocksOfWarp * kLines) return;
  if (args.rules[part.pair * 4] < 0) return;
  if (block >= BlocksOf(args.lengths[part.sequence]) - 1) return;
  if (block >= args.kv.page_table_stride) return;
  const int page =
      args.kv.page_tables[part.sequence * args.kv.page_table_stride + block];
  if (page < 0 || page >= args.kv.pages) return;
  PrefetchToL2(BoundsOf<kHeadDim>(args, page, part.kv_head) +
               lane % kLines * 64);
}

// Elements of a row of bf16 that a lane has.
template <int kEach>
struct LaneElements {
  std::uint32_t pairs[kEach / 2];

  // Not by caches that do not see what other multiprocessors write.
  __device__ __forceinline__ void Load(const __nv_bfloat16* from) {
    if constexpr (kEach == 8) {
      const uint4 read = __ldcg(reinterpret_cast<const uint4*>(from));
      pairs[0] = read.x, pairs[1] = read.y, pairs[2] = read.z,
      pairs[3] = read.w;
    } else {
      const uint2 read = __ldcg(reinterpret_cast<const uint2*>(from));
      pairs[0] = read.x, pairs[1] = read.y;
    }
  }
  __device__ __forceinline__ float at(int i) const {
    return __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16
                                      : pairs[i / 2] & 0xffff0000u);
  }
};

// Sums over a KV head's query heads: of positive elements, then of negative
// ones. For max(q M, q m) is q M for a positive q and q m for a negative one.
template <int kHeadDim>
struct QuerySums {
  float sums[2 * kHeadDim];

  __device__ __forceinline__ void Write(const DecodeSelectionArgs& args,
                                        const SelectionPart& part) {
    static_assert(2 * kHeadDim <= kSelectionThreads);
    const int element = threadIdx.x % kHeadDim;
    const bool positive = threadIdx.x < kHeadDim;
    if (threadIdx.x >= 2 * kHeadDim) return;
    const int group = args.heads / args.kv.kv_heads;
    const auto* query = static_cast<const unsigned short*>(args.queries) +
                        part.sequence * args.query_stride +
                        std::int64_t{part.kv_head} * group * kHeadDim + element;
    float sum = 0.0f;
#pragma unroll 4
    for (int head = 0; head < group; ++head) {
      const unsigned bits = __ldcg(query + head * kHeadDim);
      const float q = __uint_as_float(bits << 16);
      // What is no number stays so.
      if (positive ? !(q < 0.0f) : !(q > 0.0f)) sum += q;
    }
    sums[threadIdx.x] = sum;
  }
};

// Adds up over lanes; lane l then has the sum of sums[l / 4].
__device__ __forceinline__ float SumOverLanes(float (&sums)[kBlocksOfWarp]) {
  static_assert(kBlocksOfWarp == 8);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = (lane & half * 4) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float give = upper ? sums[i] : sums[i + half];
      const float keep = upper ? sums[i + half] : sums[i];
      sums[i] = keep + __shfl_xor_sync(kAll, give, half * 4);
    }
  }
  sums[0] += __shfl_xor_sync(kAll, sums[0], 2);
  return sums[0] + __shfl_xor_sync(kAll, sums[0], 1);
}

// Scores of a warp's blocks below `scored`, whose pages lanes have. All warps
// call together.
template <int kHeadDim>
__device__ __forceinline__ void ScoreBlocks(const SelectionWork& work,
                                            const SelectionPart& part, int page,
                                            int scored,
                                            QuerySums<kHeadDim>& queries) {
  constexpr int kEach = kHeadDim / 16;
  const DecodeSelectionArgs& args = work.args;
  const int lane = threadIdx.x % 32;
  // Behind the last block entries may be anything. What is read in place of
  // them does not count.
  const int most = min(scored - part.first_block, kBlocksOfWarp) - 1;
  page = __shfl_sync(kAll, page, max(min(lane % kBlocksOfWarp, most), 0));
  page = most < 0 ? 0 : page;
  LaneElements<kEach> rows[kBlocksOfWarp];
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    rows[i].Load(
        BoundsOf<kHeadDim>(args, __shfl_sync(kAll, page, i), part.kv_head) +
        lane * kEach);
  }
  queries.Write(args, part);
  __syncthreads();
  float sums[kBlocksOfWarp] = {};
#pragma unroll
  for (int e = 0; e < kEach; e += 4) {
    const float4 four =
        *reinterpret_cast<const float4*>(&queries.sums[lane * kEach + e]);
#pragma unroll
    for (int i = 0; i < kBlocksOfWarp; ++i) {
      sums[i] += four.x * rows[i].at(e) + four.y * rows[i].at(e + 1) +
                 four.z * rows[i].at(e + 2) + four.w * rows[i].at(e + 3);
    }
  }
  const float score = SumOverLanes(sums);
  const int block = part.first_block + lane / 4;
  if (lane % 4 == 0 && block < scored) {
    work.scores[std::int64_t{part.pair} * args.most_blocks + block] = score;
  }
}

// Whether this thread block is the last of `parts` that came; then what the
// others wrote is there to be read.
__device__ __forceinline__ bool CameLast(std::int32_t* counter, int parts) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    last = CountUp(counter) == parts - 1;
    if (last) *counter = 0;
  }
  __syncthreads();
  return last;
}

// A pair's list as it is, to be read along with whether it is wanted.
struct KeptList {
  int count;
  std::int64_t offset;

  __device__ __forceinline__ KeptList(const DecodeChoice& choice, int pair)
      : count(__ldcg(choice.block_counts + pair)),
        offset(__ldcg(choice.block_offsets + pair)) {}
};

// The blocks that a sequence has opened since its list was written.
__device__ __forceinline__ void ExtendList(const DecodeChoice& choice, int pair,
                                           const KeptList& kept, int blocks) {
  if (kept.count == kAllBlocks) return;
  std::int32_t* const list = choice.blocks + kept.offset;
  const int next = kept.count > 0 ? __ldcg(list + kept.count - 1) + 1 : 0;
  __syncthreads();
  for (int b = next + threadIdx.x; b < blocks; b += blockDim.x) {
    list[kept.count + b - next] = b;
  }
  if (threadIdx.x == 0 && next < blocks) {
    choice.block_counts[pair] = kept.count + blocks - next;
  }
}

// Where a pair's own list begins.
__device__ __forceinline__ std::int64_t OffsetOf(
    const DecodeSelectionArgs& args, int pair) {
  const int room =
      args.choice.room_blocks > 0 ? args.choice.room_blocks : args.most_blocks;
  return args.choice.own_offset + std::int64_t{pair} * room;
}

__device__ __forceinline__ void EndChoice(const DecodeSelectionArgs& args,
                                          int pair, int count) {
  args.choice.block_offsets[pair] = OffsetOf(args, pair);
  args.choice.block_counts[pair] = count;
  if (args.choice.chosen_counts != nullptr) {
    args.choice.chosen_counts[pair] = count;
  }
}

// The choice of one pair, from scores that are all there.
__device__ __forceinline__ void WriteChoice(
    const SelectionWork& work, int pair, const int4& rule, int blocks,
    std::uint32_t* keys, PageChoice<kSelectionThreads>::Scratch& scratch) {
  const DecodeSelectionArgs& args = work.args;
  const std::int64_t row = std::int64_t{pair} * args.most_blocks;
  const int first = min(max(rule.y, 1), blocks);
  const int last = min(max(rule.z, 1), blocks);
  PageChoice<kSelectionThreads> choice(
      keys, blocks, {first, max(blocks - last, first)}, scratch);
  const int count = choice.Choose(
      rule.x - min(first + last, blocks),
      [&](int block) { return __ldcg(work.scores + row + block); },
      args.choice.blocks + OffsetOf(args, pair));
  // Garbage must come to light.
  if (threadIdx.x == 0) EndChoice(args, pair, count < 0 ? kAllBlocks : count);
}

template <int kHeadDim>
__global__ void __launch_bounds__(kSelectionThreads, 4)
    ChoosePages(const __grid_constant__ SelectionWork work) {
  extern __shared__ std::uint32_t keys[];
  __shared__ PageChoice<kSelectionThreads>::Scratch scratch;
  __shared__ __align__(16) QuerySums<kHeadDim> queries;
  const DecodeSelectionArgs& args = work.args;
  const SelectionPart part(args);
  FetchBounds<kHeadDim>(args, part);
  WaitForDependency();
  LetDependentsStart();
  // Needs no other load's result.
  const int page = PageOfLane(args, part);
  const int4 rule =
      __ldcg(reinterpret_cast<const int4*>(args.rules) + part.pair);
  const int blocks = BlocksOf(__ldcg(args.lengths + part.sequence));
  const bool is_first = part.number == 0;
  if (rule.x == kKeepChoice && is_first) {
    ExtendList(args.choice, part.pair, KeptList(args.choice, part.pair),
               blocks);
  }
  if (rule.x < 0) return;
  if (blocks <= rule.x) {
    if (is_first && threadIdx.x == 0) {
      EndChoice(args, part.pair, blocks == 0 ? 0 : kAllBlocks);
    }
    return;
  }
  const int scored = blocks - 1;  // the newest block has no bounds
  const int parts =
      max((scored + kBlocksOfThreadBlock - 1) / kBlocksOfThreadBlock, 1);
  if (part.number >= parts) return;
  if (scored > 0) ScoreBlocks(work, part, page, scored, queries);
  if (!CameLast(work.counters + part.pair, parts)) return;
  WriteChoice(work, part.pair, rule, blocks, keys, scratch);
}

__global__ void __launch_bounds__(kExtendThreads)
    ExtendPages(const __grid_constant__ DecodeSelectionArgs args) {
  const int pair = blockIdx.x, sequence = pair / args.kv.kv_heads;
  if (threadIdx.x == 0) {
    PrefetchToL2(args.rules + pair * 4);
    PrefetchToL2(args.lengths + sequence);
    PrefetchToL2(args.choice.block_counts + pair);
    PrefetchToL2(args.choice.block_offsets + pair);
  }
  WaitForDependency();
  LetDependentsStart();
  const KeptList kept(args.choice, pair);
  const int rule = __ldcg(args.rules + pair * 4);
  const int blocks = BlocksOf(__ldcg(args.lengths + sequence));
  if (rule != kNoRule) ExtendList(args.choice, pair, kept, blocks);
}

LaunchStatus CheckArguments(const DecodeSelectionArgs& args) {
  if (auto status = CheckHeads(args.kv, args.heads); !status.ok()) {
    return status;
  }
  if (args.sequences < 0 ||
      std::int64_t{args.sequences} * args.kv.kv_heads > kMostPairs) {
    return OutOfRange("sequences", args.sequences,
                      "0 or more, and sequences * kv_heads at most 65535");
  }
  if (args.most_blocks < 1 || args.most_blocks > DecodeSelection::kMostBlocks) {
    return OutOfRange("most_blocks", args.most_blocks, "1 to 8192");
  }
  if (args.lengths == nullptr || args.choice.block_counts == nullptr ||
      args.choice.block_offsets == nullptr || args.choice.blocks == nullptr) {
    return LaunchStatus::Error(
        "lengths, block_counts, block_offsets and blocks must not be null");
  }
  return CheckAligned("rules", {args.rules});
}

LaunchStatus CheckScoring(const DecodeSelectionArgs& args) {
  if (auto status = CheckStride("query_stride", args.query_stride,
                                std::int64_t{args.heads} * args.kv.head_dim);
      !status.ok()) {
    return status;
  }
  if (args.kv.page_tables == nullptr) {
    return LaunchStatus::Error("page_tables must not be null");
  }
  return CheckAligned("queries and key_bounds",
                      {args.queries, args.key_bounds});
}

template <int kHeadDim>
LaunchStatus Prepare() {
  constexpr auto kKernel = ChoosePages<kHeadDim>;
  return StatusOf(
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           PageChoice<kSelectionThreads>::KeyBytes(
                               DecodeSelection::kMostBlocks)),
      "shared memory of the choice of pages");
}

}  // namespace

LaunchStatus DecodeSelection::Create(
    std::int64_t most_scores, std::unique_ptr<DecodeSelection>* created) {
  if (most_scores < 1 || most_scores > std::int64_t{1} << 32) {
    return OutOfRange("most_scores", most_scores, "1 to 2^32");
  }
  if (auto status = Prepare<64>(); !status.ok()) return status;
  if (auto status = Prepare<128>(); !status.ok()) return status;
  // Pairs are no more than scores, nor than a launch takes.
  const std::int64_t counters = std::min(most_scores, kMostPairs);
  void* room = nullptr;
  if (auto status = StatusOf(cudaMalloc(&room, (most_scores + counters) * 4),
                             "device memory for scores");
      !status.ok()) {
    return status;
  }
  created->reset(new DecodeSelection(static_cast<float*>(room), most_scores));
  if (auto status = StatusOf(
          cudaMemset(static_cast<float*>(room) + most_scores, 0, counters * 4),
          "clearing counters");
      !status.ok()) {
    return status;
  }
  // Run() may use a stream that does not wait for this one.
  return StatusOf(cudaStreamSynchronize(nullptr), "clearing counters");
}

DecodeSelection::~DecodeSelection() { cudaFree(scores_); }

LaunchStatus DecodeSelection::Run(const DecodeSelectionArgs& args,
                                  CUstream_st* stream) const {
  if (args.sequences == 0) return LaunchStatus();
  if (auto status = CheckArguments(args); !status.ok()) return status;
  if (auto status = CheckScoring(args); !status.ok()) return status;
  const std::int64_t pairs = std::int64_t{args.sequences} * args.kv.kv_heads;
  if (pairs * args.most_blocks > most_scores_) {
    return OutOfRange("sequences * kv_heads * most_blocks",
                      pairs * args.most_blocks,
                      ("at most " + std::to_string(most_scores_)).c_str());
  }
  SelectionWork work;
  work.args = args;
  work.scores = scores_;
  work.counters = reinterpret_cast<std::int32_t*>(scores_ + most_scores_);
  const int parts =
      (args.most_blocks + kBlocksOfThreadBlock - 1) / kBlocksOfThreadBlock;
  const LaunchShape shape = {
      static_cast<unsigned>(pairs * parts), kSelectionThreads,
      static_cast<unsigned>(
          PageChoice<kSelectionThreads>::KeyBytes(args.most_blocks))};
  const auto kernel =
      args.kv.head_dim == 128 ? ChoosePages<128> : ChoosePages<64>;
  return LaunchDependent(kernel, shape, work, stream,
                         "launch of the choice of pages");
}

LaunchStatus DecodeSelection::Extend(const DecodeSelectionArgs& args,
                                     CUstream_st* stream) const {
  if (args.sequences == 0) return LaunchStatus();
  if (auto status = CheckArguments(args); !status.ok()) return status;
  const auto pairs = static_cast<unsigned>(args.sequences * args.kv.kv_heads);
  return LaunchDependent(ExtendPages, {pairs, kExtendThreads, 0}, args, stream,
                         "launch of longer lists of pages");
}

}  // namespace sparseserve::cuda
