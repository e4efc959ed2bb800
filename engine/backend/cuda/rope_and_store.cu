#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/rope_and_store.h"

namespace sparseserve::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPageTokens = 64;

// Four elements of a head that a thread has: two pairs that turn together.
struct TwoPairs {
  float2 a;  // of pair 0: first and second element
  float2 b;  // of pair 1
};

// Where a thread's two pairs are in a head: with adjacent pairs its elements
// are 4 lane ... 4 lane + 3, else 2 lane, 2 lane + 1 and those half a head
// behind.
template <int head_dim, bool adjacent>
struct Elements {
  static __device__ __forceinline__ TwoPairs Load(const __nv_bfloat16* head,
                                                  int lane) {
    if constexpr (adjacent) {
      const auto* from = reinterpret_cast<const __nv_bfloat162*>(head);
      return {__bfloat1622float2(from[2 * lane]),
              __bfloat1622float2(from[2 * lane + 1])};
    } else {
      const auto* from = reinterpret_cast<const __nv_bfloat162*>(head);
      const float2 low = __bfloat1622float2(from[lane]);
      const float2 high = __bfloat1622float2(from[lane + head_dim / 4]);
      return {{low.x, high.x}, {low.y, high.y}};
    }
  }
  static __device__ __forceinline__ TwoPairs Load(const float* head, int lane) {
    const auto* from = reinterpret_cast<const float2*>(head);
    if constexpr (adjacent) {
      return {from[2 * lane], from[2 * lane + 1]};
    } else {
      const float2 low = from[lane];
      const float2 high = from[lane + head_dim / 4];
      return {{low.x, high.x}, {low.y, high.y}};
    }
  }
  static __device__ __forceinline__ void Store(const TwoPairs& values, int lane,
                                               __nv_bfloat16* head) {
    auto* to = reinterpret_cast<__nv_bfloat162*>(head);
    if constexpr (adjacent) {
      to[2 * lane] = __float22bfloat162_rn(values.a);
      to[2 * lane + 1] = __float22bfloat162_rn(values.b);
    } else {
      to[lane] = __floats2bfloat162_rn(values.a.x, values.b.x);
      to[lane + head_dim / 4] = __floats2bfloat162_rn(values.a.y, values.b.y);
    }
  }
};

// Of the threads of a head.
template <int lanes>
__device__ __forceinline__ float SumOfHead(float value) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

template <int head_dim, bool adjacent>
__device__ __forceinline__ void Norm(const float* gain, float epsilon, int lane,
                                     TwoPairs& x) {
  const float squares =
      x.a.x * x.a.x + x.a.y * x.a.y + x.b.x * x.b.x + x.b.y * x.b.y;
  const float inverse =
      rsqrtf(SumOfHead<head_dim / 4>(squares) / head_dim + epsilon);
  const TwoPairs g = Elements<head_dim, adjacent>::Load(gain, lane);
  x.a.x *= inverse * g.a.x;
  x.a.y *= inverse * g.a.y;
  x.b.x *= inverse * g.b.x;
  x.b.y *= inverse * g.b.y;
}

__device__ __forceinline__ float2 Turned(float2 pair, float cosine,
                                         float sine) {
  return {pair.x * cosine - pair.y * sine, pair.y * cosine + pair.x * sine};
}

// How many slots of a page, from its first one on, rows from `row` on store.
__device__ int StoredFromStart(const RopeAndStoreRows& args, int row) {
  int stored = 1;
  while (stored < kPageTokens && row + stored < args.rows &&
         args.kv_slots[row + stored] == args.kv_slots[row] + stored) {
    ++stored;
  }
  return stored;
}

template <int head_dim>
__device__ void ClearBehind(const RopeAndStoreRows& args, int row, int lane,
                            __nv_bfloat16* page_values) {
  const int stored = StoredFromStart(args, row);
  for (int token = stored; token < kPageTokens; ++token) {
    reinterpret_cast<uint2*>(page_values + token * head_dim)[lane] =
        make_uint2(0, 0);
  }
}

// A row for each block in x; head_dim / 4 threads go through its heads.
template <int head_dim, bool adjacent>
__global__ void __launch_bounds__(kThreads)
    RopeAndStore(RopeAndStoreRows args) {
  WaitForEarlierLaunches();
  LetNextLaunchBegin();
  using Pairs = Elements<head_dim, adjacent>;
  constexpr int kLanes = head_dim / 4;
  constexpr int kHeadsAtOnce = kThreads / kLanes;
  const int row = blockIdx.x;
  const int lane = threadIdx.x % kLanes;
  const int all_heads = args.heads + 2 * args.kv_heads;
  auto* const row_heads = static_cast<__nv_bfloat16*>(args.qkv) +
                          std::int64_t{row} * all_heads * head_dim;
  const std::int64_t slot = args.kv_slots[row];
  const std::int64_t page = slot / kPageTokens;
  const int token = static_cast<int>(slot % kPageTokens);
  float2 cosines = {1.0f, 1.0f};
  float2 sines = {0.0f, 0.0f};
  if (args.cosines != nullptr) {
    const std::int64_t first =
        std::int64_t{args.positions[row]} * (head_dim / 2);
    cosines = reinterpret_cast<const float2*>(args.cosines + first)[lane];
    sines = reinterpret_cast<const float2*>(args.sines + first)[lane];
  }
  // Heads of a warp take the same turns, so that it may add across lanes.
  const int turns = (all_heads + kHeadsAtOnce - 1) / kHeadsAtOnce;
  for (int turn = blockIdx.y; turn < turns; turn += gridDim.y) {
    const int wanted = turn * kHeadsAtOnce + threadIdx.x / kLanes;
    const int head = min(wanted, all_heads - 1);
    __nv_bfloat16* const elements = row_heads + head * head_dim;
    TwoPairs x = Pairs::Load(elements, lane);
    if (args.bias != nullptr) {
      const TwoPairs bias = Pairs::Load(args.bias + head * head_dim, lane);
      x.a.x += bias.a.x, x.a.y += bias.a.y;
      x.b.x += bias.b.x, x.b.y += bias.b.y;
    }
    const bool is_query = head < args.heads;
    const bool is_value = head >= args.heads + args.kv_heads;
    const float* gain = is_query ? args.query_gain : args.key_gain;
    if (args.query_gain != nullptr) {
      TwoPairs normed = x;
      Norm<head_dim, adjacent>(gain, args.norm_epsilon, lane, normed);
      if (!is_value) x = normed;
    }
    if (!is_value && args.cosines != nullptr) {
      x.a = Turned(x.a, cosines.x, sines.x);
      x.b = Turned(x.b, cosines.y, sines.y);
    }
    if (wanted >= all_heads) continue;
    if (is_query) {
      Pairs::Store(x, lane, elements);
      continue;
    }
    const int kv_head =
        is_value ? head - args.heads - args.kv_heads : head - args.heads;
    auto* const pages =
        static_cast<__nv_bfloat16*>(is_value ? args.values : args.keys);
    __nv_bfloat16* const page_rows =
        pages + (page * args.kv_heads + kv_head) * kPageTokens * head_dim;
    Pairs::Store(x, lane, page_rows + token * head_dim);
    if (is_value && token == 0)
      ClearBehind<head_dim>(args, row, lane, page_rows);
  }
}

}  // namespace

LaunchStatus LaunchRopeAndStore(const RopeAndStoreRows& args,
                                cudaStream_t stream) {
  if (args.rows == 0) return LaunchStatus();
  if (args.head_dim != 64 && args.head_dim != 128) {
    return OutOfRange("head_dim", args.head_dim, "64 or 128");
  }
  if (args.heads < 1) return OutOfRange("heads", args.heads, "at least 1");
  if (args.kv_heads < 1) {
    return OutOfRange("kv_heads", args.kv_heads, "at least 1");
  }
  const auto kernel = args.head_dim == 64
                          ? (args.turns_adjacent ? RopeAndStore<64, true>
                                                 : RopeAndStore<64, false>)
                          : (args.turns_adjacent ? RopeAndStore<128, true>
                                                 : RopeAndStore<128, false>);
  // A few rows are spread over more blocks, so that none takes long.
  const int heads_at_once = kThreads / (args.head_dim / 4);
  const int turns =
      (args.heads + 2 * args.kv_heads + heads_at_once - 1) / heads_at_once;
  const dim3 blocks(args.rows, args.rows >= 256 ? 1 : turns);
  return LaunchDependent(kernel, blocks, kThreads, stream, "rope and store",
                         args);
}

}  // namespace sparseserve::cuda
