// Page bounds to lists for one row of each sequence, for compute capability 8.0
// and later.
//
// Work split: scores by warps, four blocks of a pair of sequence and KV head
// each; then a thread block for each pair that chooses.
// Memory traffic: each bound is read once, 4 * head_dim bytes a block and KV
// head; of keys and values nothing.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/block_choice.cuh"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/decode_selection.h"

namespace sparseserve::cuda {
namespace {

constexpr int kScoreThreads = 256;
constexpr int kBlocksOfWarp = 4;
constexpr int kBlocksOfThreadBlock = kScoreThreads / 32 * kBlocksOfWarp;
constexpr int kChoiceThreads = 256;

__device__ __forceinline__ int BlocksOf(int length) {
  return (length + 63) / 64;
}

// Of lane l, elements from l * kEach on of greatest (lanes below 16) or least.
template <int kHeadDim>
__global__ void __launch_bounds__(kScoreThreads)
    PageScores(const DecodeSelectionArgs args, float* scores) {
  constexpr int kEach = kHeadDim / 16;
  const int pair = blockIdx.y, lane = threadIdx.x % 32;
  const int kv_heads = args.kv.kv_heads, group = args.heads / kv_heads;
  const int sequence = pair / kv_heads, kv_head = pair % kv_heads;
  const int wanted = args.rules[pair * 4];
  // The newest block has no bounds.
  const int scored = BlocksOf(args.lengths[sequence]) - 1;
  const int first =
      blockIdx.x * kBlocksOfThreadBlock + threadIdx.x / 32 * kBlocksOfWarp;
  if (wanted < 0 || scored < wanted || first >= scored) return;
  const auto* bounds = static_cast<const __nv_bfloat16*>(args.key_bounds);
  union Row {
    uint4 whole;
    uint2 half;
    __nv_bfloat16 elements[8];
  };
  Row rows[kBlocksOfWarp];
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    const int block = min(first + i, scored - 1);
    const std::int64_t page =
        args.kv.page_tables[sequence * args.kv.page_table_stride + block];
    const __nv_bfloat16* at =
        bounds + (page * kv_heads + kv_head) * 2 * kHeadDim + lane * kEach;
    if constexpr (kEach == 8) {
      rows[i].whole = *reinterpret_cast<const uint4*>(at);
    } else {
      rows[i].half = *reinterpret_cast<const uint2*>(at);
    }
  }
  // max(q M, q m) is q M for a positive q and q m for a negative one.
  float sums[kEach];
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  const auto* query = static_cast<const __nv_bfloat16*>(args.queries) +
                      sequence * args.query_stride +
                      std::int64_t{kv_head} * group * kHeadDim +
                      lane % 16 * kEach;
  for (int head = 0; head < group; ++head, query += kHeadDim) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float q = __bfloat162float(query[i]);
      // What is no number stays so.
      const bool counts = lane < 16 ? !(q < 0.0f) : !(q > 0.0f);
      if (counts) sums[i] += q;
    }
  }
#pragma unroll
  for (int i = 0; i < kBlocksOfWarp; ++i) {
    float score = 0.0f;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      score += sums[e] * __bfloat162float(rows[i].elements[e]);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      score += __shfl_xor_sync(0xffffffffu, score, step);
    }
    if (lane == 0 && first + i < scored) {
      scores[std::int64_t{pair} * args.most_blocks + first + i] = score;
    }
  }
}

// The blocks that a sequence has opened since its list was written.
__device__ __forceinline__ void ExtendList(const DecodeChoice& choice, int pair,
                                           int blocks) {
  const int count = choice.block_counts[pair];
  if (count == kAllBlocks) return;
  std::int32_t* const list = choice.blocks + choice.block_offsets[pair];
  const int next = count > 0 ? list[count - 1] + 1 : 0;
  __syncthreads();
  for (int b = next + threadIdx.x; b < blocks; b += blockDim.x) {
    list[count + b - next] = b;
  }
  if (threadIdx.x == 0 && next < blocks) {
    choice.block_counts[pair] = count + blocks - next;
  }
}

__global__ void __launch_bounds__(kChoiceThreads)
    ChoosePages(const DecodeSelectionArgs args, const float* scores) {
  extern __shared__ std::uint32_t memory[];
  __shared__ ChoiceScratch<kChoiceThreads> scratch;
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");  // for the scores
#endif
  const int pair = blockIdx.x;
  const int4 rule = reinterpret_cast<const int4*>(args.rules)[pair];
  const int blocks = BlocksOf(args.lengths[pair / args.kv.kv_heads]);
  if (rule.x == kKeepChoice) return ExtendList(args.choice, pair, blocks);
  if (rule.x < 0) return;
  const int room =
      args.choice.room_blocks > 0 ? args.choice.room_blocks : args.most_blocks;
  const std::int64_t offset =
      args.choice.own_offset + std::int64_t{pair} * room;
  const auto end = [&](int count) {
    if (threadIdx.x != 0) return;
    args.choice.block_counts[pair] = count;
    if (args.choice.chosen_counts != nullptr) {
      args.choice.chosen_counts[pair] = count;
    }
  };
  if (threadIdx.x == 0) args.choice.block_offsets[pair] = offset;
  if (blocks <= rule.x) return end(blocks == 0 ? 0 : kAllBlocks);
  BlockRow row = {memory, memory + args.most_blocks, blocks};
  const int first = min(max(rule.y, 1), blocks);
  const int last = min(max(rule.z, 1), blocks);
  const auto is_forced = [&](int b) { return b < first || b >= blocks - last; };
  bool finite = true;
  for (int b = threadIdx.x; b < blocks; b += kChoiceThreads) {
    const float score = b == blocks - 1
                            ? 0.0f
                            : scores[std::int64_t{pair} * args.most_blocks + b];
    finite = finite && isfinite(score);
    row.keys[b] = OrderedKey(score);
    row.weights[b] = is_forced(b) ? 0 : 1;
  }
  if (__syncthreads_or(!finite)) {  // garbage must come to light
    return end(kAllBlocks);
  }
  const int need = rule.x - min(first + last, blocks);
  Threshold threshold = {0xffffffffu, 0};  // no finite score's key
  if (need > 0) threshold = FindThreshold<kChoiceThreads>(row, need, scratch);
  std::int32_t* const list = args.choice.blocks + offset;
  const int count = WriteChosen<kChoiceThreads>(
      row, threshold, is_forced, [&](int place, int b) { list[place] = b; },
      scratch);
  end(count);
}

__global__ void ExtendPages(const DecodeSelectionArgs args) {
  const int pair = blockIdx.x;
  const int rule = args.rules[pair * 4];
  if (rule == kNoRule) return;
  ExtendList(args.choice, pair,
             BlocksOf(args.lengths[pair / args.kv.kv_heads]));
}

LaunchStatus CheckArguments(const DecodeSelectionArgs& args) {
  if (auto status = CheckHeads(args.kv, args.heads); !status.ok()) {
    return status;
  }
  if (args.sequences < 0 ||
      std::int64_t{args.sequences} * args.kv.kv_heads > 65535) {
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

// `early`: the launch may begin before the scores are there.
LaunchStatus LaunchChoice(const DecodeSelectionArgs& args, const float* scores,
                          int pairs, bool early, cudaStream_t stream) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(pairs);
  config.blockDim = dim3(kChoiceThreads);
  config.dynamicSmemBytes = BlockRowBytes(args.most_blocks);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  return StatusOf(cudaLaunchKernelEx(&config, ChoosePages, args, scores),
                  "launch of the choice of pages");
}

}  // namespace

LaunchStatus DecodeSelection::Create(
    std::int64_t most_scores, std::unique_ptr<DecodeSelection>* created) {
  if (most_scores < 1 || most_scores > std::int64_t{1} << 32) {
    return OutOfRange("most_scores", most_scores, "1 to 2^32");
  }
  if (auto status =
          StatusOf(cudaFuncSetAttribute(
                       ChoosePages, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       BlockRowBytes(kMostBlocks)),
                   "shared memory of the choice of pages");
      !status.ok()) {
    return status;
  }
  int device = 0, major = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  void* scores = nullptr;
  if (auto status = StatusOf(cudaMalloc(&scores, most_scores * sizeof(float)),
                             "device memory for scores");
      !status.ok()) {
    return status;
  }
  created->reset(new DecodeSelection(static_cast<float*>(scores), most_scores,
                                     major >= 9));
  return LaunchStatus();
}

DecodeSelection::~DecodeSelection() { cudaFree(scores_); }

LaunchStatus DecodeSelection::Run(const DecodeSelectionArgs& args,
                                  CUstream_st* stream) const {
  if (args.sequences == 0) return LaunchStatus();
  if (auto status = CheckArguments(args); !status.ok()) return status;
  if (auto status = CheckScoring(args); !status.ok()) return status;
  const int pairs = args.sequences * args.kv.kv_heads;
  if (std::int64_t{pairs} * args.most_blocks > most_scores_) {
    return OutOfRange("sequences * kv_heads * most_blocks",
                      std::int64_t{pairs} * args.most_blocks,
                      ("at most " + std::to_string(most_scores_)).c_str());
  }
  const dim3 grid(
      (args.most_blocks + kBlocksOfThreadBlock - 1) / kBlocksOfThreadBlock,
      pairs);
  if (args.kv.head_dim == 128) {
    PageScores<128><<<grid, kScoreThreads, 0, stream>>>(args, scores_);
  } else {
    PageScores<64><<<grid, kScoreThreads, 0, stream>>>(args, scores_);
  }
  if (auto status = StatusOf(cudaGetLastError(), "launch of page scores");
      !status.ok()) {
    return status;
  }
  return LaunchChoice(args, scores_, pairs, early_, stream);
}

LaunchStatus DecodeSelection::Extend(const DecodeSelectionArgs& args,
                                     CUstream_st* stream) const {
  if (args.sequences == 0) return LaunchStatus();
  if (auto status = CheckArguments(args); !status.ok()) return status;
  ExtendPages<<<args.sequences * args.kv.kv_heads, 32, 0, stream>>>(args);
  return StatusOf(cudaGetLastError(), "launch of longer lists of pages");
}

}  // namespace sparseserve::cuda
