#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/rope_and_store.h"

namespace sparseserve::cuda {
namespace {

constexpr int kPageTokens = 64;
constexpr int kThreads = 256;
// Threads that sum up one KV head of a page: so many shares of its keys.
constexpr int kPageShares = 4;

struct RopeWork {
  RopeRowsArgs args;
  std::int32_t group = 0;        // query heads of a KV head
  std::int32_t block_items = 0;  // pairs of row and KV head a thread block
};

// A head of a row as `kLanes` neighbouring threads hold it: 16 elements each,
// 8 of the first half and 8 of the second.
struct HeadPart {
  Vector8 low, high;
};

__device__ __forceinline__ void AddTo(HeadPart& part, const float* values,
                                      int half) {
  const Vector8 low = Load8(values), high = Load8(values + half);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    part.low.of[i] += low.of[i];
    part.high.of[i] += high.of[i];
  }
}

template <int kLanes>
__device__ __forceinline__ void Norm(HeadPart& part, const float* gain,
                                     int half, float epsilon, bool has_part) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    sum += part.low.of[i] * part.low.of[i];
    sum += part.high.of[i] * part.high.of[i];
  }
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  if (!has_part) return;
  const float factor = 1.0f / sqrtf(sum / (2 * half) + epsilon);
  const Vector8 low = Load8(gain), high = Load8(gain + half);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    part.low.of[i] *= factor * low.of[i];
    part.high.of[i] *= factor * high.of[i];
  }
}

__device__ __forceinline__ void Turn(float& x, float& y, float cosine,
                                     float sine) {
  const float turned = x * cosine - y * sine;
  y = y * cosine + x * sine;
  x = turned;
}

__device__ __forceinline__ void RotateAdjacent(Vector8& vector,
                                               const float* cosines,
                                               const float* sines) {
  const float4 c = *reinterpret_cast<const float4*>(cosines);
  const float4 s = *reinterpret_cast<const float4*>(sines);
  Turn(vector.of[0], vector.of[1], c.x, s.x);
  Turn(vector.of[2], vector.of[3], c.y, s.y);
  Turn(vector.of[4], vector.of[5], c.z, s.z);
  Turn(vector.of[6], vector.of[7], c.w, s.w);
}

// `first`: the head's element that `low` begins with.
__device__ __forceinline__ void Rotate(HeadPart& part, RotatedPairs pairs,
                                       const float* cosines, const float* sines,
                                       int first, int half) {
  if (pairs == RotatedPairs::kAdjacent) {
    RotateAdjacent(part.low, cosines + first / 2, sines + first / 2);
    const int pair = (half + first) / 2;
    RotateAdjacent(part.high, cosines + pair, sines + pair);
    return;
  }
  const Vector8 c = Load8(cosines + first), s = Load8(sines + first);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    Turn(part.low.of[i], part.high.of[i], c.of[i], s.of[i]);
  }
}

// Whether no row behind this one goes to the same page.
__device__ __forceinline__ bool IsLastOfPage(const RopeRowsArgs& args,
                                             std::int64_t row,
                                             std::int64_t slot) {
  return row + 1 == args.rows || args.kv_slots[row + 1] < 0 ||
         args.kv_slots[row + 1] / kPageTokens != slot / kPageTokens;
}

// Whether slot 0 of the row's page is among the rows. The page's rows are
// neighbours in order of their slots, so it is the first of them.
__device__ __forceinline__ bool IsPageOpened(const RopeRowsArgs& args,
                                             std::int64_t row,
                                             std::int64_t slot) {
  const std::int64_t first = row - slot % kPageTokens;
  return first >= 0 && args.kv_slots[first] == slot - slot % kPageTokens;
}

// Bounds and mean of one KV head's keys by `threads` threads, which are a
// multiple of 4 and of whole warps: four neighbours share 8 elements of a key.
__device__ __forceinline__ void SumUpPage(const KvPages& kv, std::int64_t head,
                                          int thread, int threads) {
  const int width = kv.head_dim;
  const auto* keys =
      static_cast<const __nv_bfloat16*>(kv.keys) + head * kPageTokens * width;
  const int share = thread % kPageShares;
  const int pieces = width / 8 * kPageShares;
  // Whole warps stay together for the shuffles below.
  for (int piece = thread; piece - piece % 32 < pieces; piece += threads) {
    const bool exists = piece < pieces;
    const int first = exists ? piece / kPageShares * 8 : 0;
    Vector8 most = Load8(keys + share * width + first);
    Vector8 least = most, sum = most;
#pragma unroll 3
    for (int key = share + kPageShares; key < kPageTokens; key += kPageShares) {
      const Vector8 values = Load8(keys + key * width + first);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        most.of[i] = fmaxf(most.of[i], values.of[i]);
        least.of[i] = fminf(least.of[i], values.of[i]);
        sum.of[i] += values.of[i];
      }
    }
#pragma unroll
    for (int offset = 1; offset < kPageShares; offset *= 2) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        most.of[i] =
            fmaxf(most.of[i], __shfl_xor_sync(0xffffffffu, most.of[i], offset));
        least.of[i] = fminf(least.of[i],
                            __shfl_xor_sync(0xffffffffu, least.of[i], offset));
        sum.of[i] += __shfl_xor_sync(0xffffffffu, sum.of[i], offset);
      }
    }
    if (!exists || share != 0) continue;
    if (kv.key_bounds != nullptr) {
      auto* bounds =
          static_cast<__nv_bfloat16*>(kv.key_bounds) + head * 2 * width + first;
      Store8(most, bounds);
      Store8(least, bounds + width);
    }
    if (kv.mean_keys != nullptr) {
#pragma unroll
      for (float& value : sum.of) value *= 1.0f / kPageTokens;
      Store8(sum, kv.mean_keys + head * width + first);
    }
  }
}

__device__ __forceinline__ bool KeepsSums(const KvPages& kv) {
  return kv.key_bounds != nullptr || kv.mean_keys != nullptr;
}

// One head of one row, `unit` of its KV head's: query heads, key, value.
template <int kLanes>
__device__ __forceinline__ void TakeHead(const RopeWork& work, std::int64_t row,
                                         int kv_head, int unit, int lane,
                                         bool exists) {
  const RopeRowsArgs& args = work.args;
  const KvPages& kv = args.kv;
  const int width = kv.head_dim, half = width / 2;
  const int first = lane * 8;
  const bool has_part = exists && first < half;
  const bool is_key = unit == work.group, is_value = unit == work.group + 1;
  const int head = is_value ? args.heads + kv.kv_heads + kv_head
                   : is_key ? args.heads + kv_head
                            : kv_head * work.group + unit;
  auto* const at = static_cast<__nv_bfloat16*>(args.qkv) +
                   row * args.qkv_stride + std::int64_t{head} * width + first;
  // All loads that need no other's result come before the first use of one.
  const std::int64_t slot = args.kv_slots[row];
  const bool rotates = args.cosines != nullptr && !is_value;
  const std::int32_t position = rotates ? args.positions[row] : 0;
  HeadPart part = {};
  if (has_part) {
    part.low = Load8(at);
    part.high = Load8(at + half);
    if (args.bias != nullptr) {
      AddTo(part, args.bias + std::int64_t{head} * width + first, half);
    }
  }
  const float* const gain = is_key ? args.key_gain : args.query_gain;
  // All lanes of a warp exchange sums, whichever head they have.
  if (args.query_gain != nullptr) {
    Norm<kLanes>(part, gain + first, half, args.norm_epsilon,
                 has_part && !is_value);
  }
  if (!has_part || slot < 0) return;
  if (rotates) {
    const std::int64_t angles = std::int64_t{position} * half;
    Rotate(part, args.pairs, args.cosines + angles, args.sines + angles, first,
           half);
  }
  __nv_bfloat16* to = at;
  if (is_key || is_value) {
    const std::int64_t page_head = slot / kPageTokens * kv.kv_heads + kv_head;
    to = static_cast<__nv_bfloat16*>(is_key ? kv.keys : kv.values) +
         (page_head * kPageTokens + slot % kPageTokens) * width + first;
  }
  Store8(part.low, to);
  Store8(part.high, to + half);
  if (!is_value || slot % kPageTokens == kPageTokens - 1 ||
      !IsLastOfPage(args, row, slot) || !IsPageOpened(args, row, slot)) {
    return;
  }
  for (int token = slot % kPageTokens + 1; token < kPageTokens; ++token) {
    to += width;
    *reinterpret_cast<uint4*>(to) = uint4{};
    *reinterpret_cast<uint4*>(to + half) = uint4{};
  }
}

// Items are pairs of row and KV head; every head of an item is `kLanes`
// threads', at least head_dim / 16. Rows pass once in each direction.
template <int kLanes>
__global__ void __launch_bounds__(kThreads, 3)
    RopeAndStoreKernel(RopeWork work) {
  const RopeRowsArgs& args = work.args;
  LetDependentsStart();
  WaitForDependency();
  const int heads = work.group + 2;
  const int lane = threadIdx.x % kLanes;
  const std::int64_t items = std::int64_t{args.rows} * args.kv.kv_heads;
  const std::int64_t first_item = std::int64_t{blockIdx.x} * work.block_items;
  const int units = work.block_items * heads;
  for (int base = 0; base < units; base += blockDim.x / kLanes) {
    const int unit = base + threadIdx.x / kLanes;
    const std::int64_t item = first_item + unit / heads;
    const bool exists = unit < units && item < items;
    const std::int64_t row = exists ? item / args.kv.kv_heads : 0;
    TakeHead<kLanes>(work, row, static_cast<int>(item % args.kv.kv_heads),
                     unit % heads, lane, exists);
  }
  // Then a thread block has one item.
  if (!args.pages_have_one_row || !KeepsSums(args.kv)) return;
  const std::int64_t slot = args.kv_slots[first_item / args.kv.kv_heads];
  if (slot < 0 || slot % kPageTokens != kPageTokens - 1) return;
  __syncthreads();
  SumUpPage(
      args.kv,
      slot / kPageTokens * args.kv.kv_heads + first_item % args.kv.kv_heads,
      threadIdx.x, blockDim.x);
}

// Behind the other kernel, where pages have several rows: a warp for each row,
// and nothing to do for most. Keys of full pages are read once more.
__global__ void __launch_bounds__(kThreads, 3)
    PageSumsKernel(RopeRowsArgs args) {
  LetDependentsStart();
  WaitForDependency();
  const std::int64_t item =
      std::int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const std::int64_t row = item / args.kv.kv_heads;
  if (row >= args.rows) return;
  const std::int64_t slot = args.kv_slots[row];
  if (slot < 0 || slot % kPageTokens != kPageTokens - 1) return;
  SumUpPage(args.kv,
            slot / kPageTokens * args.kv.kv_heads + item % args.kv.kv_heads,
            threadIdx.x % 32, 32);
}

LaunchStatus CheckShape(const RopeRowsArgs& args) {
  const KvPages& kv = args.kv;
  if (args.rows < 0) return OutOfRange("rows", args.rows, "0 or more");
  if (kv.head_dim < 32 || kv.head_dim > 256 || kv.head_dim % 16 != 0) {
    return OutOfRange("head_dim", kv.head_dim, "a multiple of 16, 32 to 256");
  }
  if (kv.kv_heads < 1) return OutOfRange("kv_heads", kv.kv_heads, "at least 1");
  if (args.heads < 1 || args.heads % kv.kv_heads != 0) {
    return OutOfRange("heads", args.heads, "a positive multiple of kv_heads");
  }
  if (kv.pages < 1) return OutOfRange("pages", kv.pages, "1 or more");
  if (std::int64_t{args.rows} * kv.kv_heads >
      std::numeric_limits<std::int32_t>::max()) {
    return OutOfRange("rows", args.rows, "such that rows * kv_heads < 2^31");
  }
  const std::int64_t width =
      (std::int64_t{args.heads} + 2 * std::int64_t{kv.kv_heads}) * kv.head_dim;
  if (args.qkv_stride < width || args.qkv_stride % 8 != 0) {
    return OutOfRange(
        "qkv_stride", args.qkv_stride,
        "a multiple of 8 and at least (heads + 2 * kv_heads) * head_dim");
  }
  return LaunchStatus();
}

bool IsAlignedOrNull(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

LaunchStatus CheckArrays(const RopeRowsArgs& args) {
  if (auto status = CheckAligned("qkv, keys and values",
                                 {args.qkv, args.kv.keys, args.kv.values});
      !status.ok()) {
    return status;
  }
  if (args.kv_slots == nullptr) {
    return LaunchStatus::Error("kv_slots must not be null");
  }
  if ((args.cosines == nullptr) != (args.sines == nullptr) ||
      (args.cosines != nullptr && args.positions == nullptr)) {
    return LaunchStatus::Error(
        "cosines and sines must both be null or neither, and positions not "
        "null where they are not");
  }
  if ((args.query_gain == nullptr) != (args.key_gain == nullptr)) {
    return LaunchStatus::Error(
        "query_gain and key_gain must both be null or neither");
  }
  for (const void* pointer : {static_cast<const void*>(args.bias),
                              static_cast<const void*>(args.query_gain),
                              static_cast<const void*>(args.key_gain),
                              static_cast<const void*>(args.cosines),
                              static_cast<const void*>(args.sines),
                              static_cast<const void*>(args.kv.key_bounds),
                              static_cast<const void*>(args.kv.mean_keys)}) {
    if (IsAlignedOrNull(pointer)) continue;
    return LaunchStatus::Error(
        "bias, gains, cosines, sines, key_bounds and mean_keys must be 16-byte "
        "aligned");
  }
  return LaunchStatus();
}

template <int kLanes>
LaunchStatus Launch(const RopeRowsArgs& args, cudaStream_t stream) {
  const bool keeps_sums =
      args.kv.key_bounds != nullptr || args.kv.mean_keys != nullptr;
  RopeWork work;
  work.args = args;
  work.group = args.heads / args.kv.kv_heads;
  const int item_threads = (work.group + 2) * kLanes;
  // Few rows are spread over many thread blocks.
  const bool has_one_item =
      args.rows <= 64 || (keeps_sums && args.pages_have_one_row);
  work.block_items = has_one_item ? 1 : std::max(kThreads / item_threads, 1);
  const std::int64_t items = std::int64_t{args.rows} * args.kv.kv_heads;
  LaunchShape shape;
  shape.thread_blocks =
      static_cast<unsigned>((items + work.block_items - 1) / work.block_items);
  shape.threads =
      WholeWarps(std::int64_t{work.block_items} * item_threads, kThreads);
  if (auto status = LaunchDependent(RopeAndStoreKernel<kLanes>, shape, work,
                                    stream, "launch of rope");
      !status.ok() || !keeps_sums || args.pages_have_one_row) {
    return status;
  }
  constexpr int kWarps = kThreads / 32;
  shape.threads = kThreads;
  shape.thread_blocks = static_cast<unsigned>((items + kWarps - 1) / kWarps);
  return LaunchDependent(PageSumsKernel, shape, args, stream,
                         "launch of sums of pages");
}

}  // namespace

LaunchStatus LaunchRopeAndStore(const RopeRowsArgs& args, CUstream_st* stream) {
  if (args.rows == 0) return LaunchStatus();
  if (auto status = CheckShape(args); !status.ok()) return status;
  if (auto status = CheckArrays(args); !status.ok()) return status;
  if (args.kv.head_dim <= 32) return Launch<2>(args, stream);
  if (args.kv.head_dim <= 64) return Launch<4>(args, stream);
  if (args.kv.head_dim <= 128) return Launch<8>(args, stream);
  return Launch<16>(args, stream);
}

}  // namespace sparseserve::cuda
