// Scores of groups of queries and keys, and lists from them, for compute
// capability 8.0 and later.
//
// Work split: products by thread blocks of 128 rows x 128 columns, whose rows
// are those of several tiles (antidiagonal ones on compute capability 9.0:
// hopper_selection_products.cu); a thread block for each pair of tile and KV
// head then chooses and writes its list.
// Memory traffic: means read queries and keys once; of products, a float for
// each row and block is written and read once.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>

#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/block_choice.cuh"
#include "engine/backend/cuda/block_selection.h"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/decode_attention.h"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/group_scores.cuh"
#include "engine/backend/cuda/hopper_selection_products.h"
#include "engine/backend/cuda/mma_sync.cuh"
#include "engine/backend/cuda/selection_checks.h"

namespace sparseserve::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kProductThreads = 256;
constexpr int kSide = 128;  // rows and columns of a thread block
static_assert(kSide == kColumns);
constexpr int kStepDepth = 64;  // elements of a row at a time
constexpr int kStages = 3;
constexpr int kChoiceThreads = 128;
constexpr int kRowsAtOnce = 8;  // of a choice's sums
constexpr int kPoolThreads = 256;
constexpr int kOrderThreads = 256;
constexpr int kOrderParts = 4;  // threads of a tile
constexpr int kOrderTiles = kOrderThreads / kOrderParts;
constexpr int kScorePitch = kSide + 4;

__host__ __device__ constexpr int RoundedUp4(int count) {
  return (count + 3) / 4 * 4;
}

struct ProductShared {
  union {
    __nv_bfloat16 operands[kStages][2][kSide][kStepDepth];
    float scores[kSide][kScorePitch];
  };
  // Of rows: a column, -1 where the row does not count; the slice, -1 where
  // there is no row.
  int last_columns[kSide];
  int slice_numbers[kSide];
};

// What a row of products is, and whether it counts.
struct GroupRow {
  bool counts = false;
  int4 tile = {};
  int head = 0;         // query head
  int first = 0;        // position of the group's first query
  int last_column = 0;  // key group that the row sees as its last
};

__device__ __forceinline__ GroupRow RowAt(const GroupWork& work, int index,
                                          int kv_head) {
  GroupRow row;
  const int rows = work.rows_of_tile();
  const int tile = index / rows;
  if (tile >= work.tiles) return row;
  row.tile = TileAt(work.args, work.first_tile + tile);
  const int within = index % rows;
  row.head = kv_head * work.group() + within / work.row_groups;
  const int own = OwnBlock(row.tile);
  const int number = own * work.row_groups + within % work.row_groups;
  if (work.stride == 0) {
    row.counts = true;
    row.last_column = own;
  } else {
    row.first = number * work.stride;
    row.counts = row.first + work.stride > row.tile.w &&
                 row.first < row.tile.w + row.tile.z;
    row.last_column = number;
  }
  row.counts = row.counts && IsAsked(work, work.first_tile + tile, kv_head);
  return row;
}

constexpr std::uint32_t kNoChunk = 0xffffffffu;

// Of one row or column of operands, vectors of head_dim elements: slot s of
// [begin, end) is `chunk` and s steps behind the matrix's beginning, other
// slots are zeros. Of means all slots are there, or no chunk is.
struct OperandRow {
  std::uint32_t chunk = kNoChunk;  // of 8 elements
  short begin = 0;
  short end = 0;
};

// Steps backwards: slot s holds the group's query stride - 1 - s. Pooled: the
// upper, the lower and the upper half of a mean.
__device__ __forceinline__ OperandRow QueriesAt(const GroupWork& work,
                                                int index, int kv_head,
                                                int slice) {
  OperandRow operand;
  const GroupRow row = RowAt(work, index, kv_head);
  if (!row.counts || row.tile.x != slice) return operand;
  const int head_dim = work.args.kv.head_dim;
  if (work.stride == 0) {
    operand.chunk = static_cast<std::uint32_t>(
        (std::int64_t{kv_head} * work.tiles * work.group() + index) * 2 *
        head_dim / 8);
    return operand;
  }
  const int last = row.first + work.stride - 1;  // slot 0
  operand.chunk = static_cast<std::uint32_t>(
      ((row.tile.y + std::int64_t{last} - row.tile.w) * work.args.query_stride +
       row.head * head_dim) /
      8);
  operand.begin =
      static_cast<short>(max(last - (row.tile.w + row.tile.z) + 1, 0));
  operand.end = static_cast<short>(min(last - row.tile.w + 1, work.stride));
  return operand;
}

// Slot s holds the group's key s, if it is before `end`. Pooled: the upper, the
// upper and the lower half of a mean.
__device__ __forceinline__ OperandRow KeysAt(const GroupWork& work,
                                             int slice_number, int slice,
                                             int end, int column, int kv_head) {
  OperandRow operand;
  const PagedKv& kv = work.args.kv;
  if (work.stride == 0) {
    if (column * 64 >= end) return operand;
    operand.chunk = static_cast<std::uint32_t>(
        ((std::int64_t{slice_number} * kv.kv_heads + kv_head) *
             work.args.most_blocks +
         column) *
        2 * kv.head_dim / 8);
    return operand;
  }
  const int position = column * work.stride;
  if (position >= end) return operand;
  const std::int64_t page =
      __ldg(kv.page_tables + slice * kv.page_table_stride + position / 64);
  operand.chunk = static_cast<std::uint32_t>(
      ((page * kv.kv_heads + kv_head) * 64 + position % 64) * kv.head_dim / 8);
  operand.end = static_cast<short>(min(end - position, work.stride));
  return operand;
}

__device__ __forceinline__ std::uint32_t ChunkOf(
    const __nv_bfloat16 (&rows)[kSide][kStepDepth], int row, int chunk) {
  return static_cast<std::uint32_t>(
      __cvta_generic_to_shared(&rows[row][(chunk ^ (row % 8)) * 8]));
}

// Eight warps, 64 rows x 32 columns each.
__device__ __forceinline__ void MultiplyStep(const ProductShared& shared,
                                             int stage, float (&sums)[4][16]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = warp / 4 * 64, first_column = warp % 4 * 32;
#pragma unroll
  for (int step = 0; step < kStepDepth / 16; ++step) {
    std::uint32_t right[2][4];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      LoadMatrices(ChunkOf(shared.operands[stage][1],
                           first_column + pair * 16 + lane / 16 * 8 + lane % 8,
                           step * 2 + lane / 8 % 2),
                   right[pair]);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      std::uint32_t left[4];
      LoadMatrices(
          ChunkOf(shared.operands[stage][0], first_row + r * 16 + lane % 16,
                  step * 2 + lane / 16),
          left);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        Multiply(sums[r] + pair * 8, left, right[pair][0], right[pair][1]);
        Multiply(sums[r] + pair * 8 + 4, left, right[pair][2], right[pair][3]);
      }
    }
  }
}

// Where sums of a row begin from a column on.
__device__ __forceinline__ float* RowOfSums(const GroupWork& work, int kv_head,
                                            int row, int column) {
  return work.sums +
         (std::int64_t{kv_head} * work.tiles * work.rows_of_tile() + row) *
             work.row_blocks() +
         column / work.block_groups;
}

// What group_scores.cuh says of the thread block's rows from begin_row to
// end_row, which are one slice's, and its columns. A warp has every eighth row,
// a lane four columns.
__device__ __forceinline__ void StoreSums(const GroupWork& work,
                                          const ProductShared& shared,
                                          int first_row, int begin_row,
                                          int end_row, int first_column,
                                          int kv_head) {
  const int slice_number = shared.slice_numbers[begin_row];
  const int lane = threadIdx.x % 32;
  const int groups = work.block_groups;
  const int column = first_column + 4 * lane;
  bool scored[4];  // said so that NaN is
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scored[i] = work.stride != 0 || column + i >= work.args.most_blocks ||
                !(work.key_similarities[(std::int64_t{slice_number} *
                                             work.args.kv.kv_heads +
                                         kv_head) *
                                            work.args.most_blocks +
                                        column + i] < work.similarity);
  }
  // Several rows side by side, so that one's shuffles hide the others'.
  constexpr int kWarps = kProductThreads / 32, kTogether = 4;
  for (int base = begin_row + threadIdx.x / 32; base < end_row;
       base += kWarps * kTogether) {
    float scores[kTogether][4], greatest[kTogether], sums[kTogether];
    bool counts[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int r = min(base + i * kWarps, kSide - 1);
      const int last_column = shared.last_columns[r];
      counts[i] = base + i * kWarps < end_row && last_column >= 0;
      const float4 read =
          *reinterpret_cast<const float4*>(shared.scores[r] + 4 * lane);
      const float four[4] = {read.x, read.y, read.z, read.w};
      greatest[i] = -INFINITY;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const bool shows = column + c <= last_column && scored[c];
        scores[i][c] = shows ? four[c] : -INFINITY;
        greatest[i] = fmaxf(greatest[i], scores[i][c]);
      }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
#pragma unroll
      for (float& one : greatest) {
        one = fmaxf(one, __shfl_xor_sync(kAll, one, step));
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      greatest[i] *= work.factor;
      const float reference = greatest[i] == -INFINITY ? 0.0f : greatest[i];
#pragma unroll
      for (float& score : scores[i]) {
        score = PowerOf2(fmaf(score, work.factor, -reference));
      }
      const float2 pairs = {scores[i][0] + scores[i][1],
                            scores[i][2] + scores[i][3]};
      sums[i] = pairs.x + pairs.y;
      if (!counts[i] || groups > 2) continue;
      float* const to =
          RowOfSums(work, kv_head, first_row + base + i * kWarps, first_column);
      if (groups == 1) {
        reinterpret_cast<float4*>(to)[lane] = {scores[i][0], scores[i][1],
                                               scores[i][2], scores[i][3]};
      } else {
        reinterpret_cast<float2*>(to)[lane] = pairs;
      }
    }
#pragma unroll
    for (int step = 1; step <= 16; step *= 2) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (groups == 4 * step && counts[i] && lane % step == 0) {
          RowOfSums(work, kv_head, first_row + base + i * kWarps,
                    first_column)[lane / step] = sums[i];
        }
        sums[i] += __shfl_xor_sync(kAll, sums[i], step);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (!counts[i] || lane != 0) continue;
      work.tops[(std::int64_t{kv_head} * work.tiles * work.rows_of_tile() +
                 first_row + base + i * kWarps) *
                    work.column_tiles +
                first_column / kColumns] = {greatest[i], sums[i]};
    }
  }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kPooledResident = 1;  // thread blocks of a multiprocessor
#else
constexpr int kPooledResident = 2;
#endif

template <bool kPooled>
__global__ void __launch_bounds__(kProductThreads,
                                  kPooled ? kPooledResident : 1)
    GroupProducts(const GroupWork work) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  WaitForDependency();
  LetDependentsStart();
  const int bands = (work.tiles * work.rows_of_tile() + kSide - 1) / kSide;
  const int band = blockIdx.x / work.column_tiles;
  const int kv_head = band / bands;
  const int first_row = band % bands * kSide;
  const int first_column = blockIdx.x % work.column_tiles * kSide;
  const int rows_of_tile = work.rows_of_tile();
  const int head_dim = work.args.kv.head_dim;
  const int steps = (kPooled ? 3 : work.stride) * head_dim / kStepDepth;
  const int head_bits = head_dim == 64 ? 6 : 7;
  if (threadIdx.x < kSide) {
    const int row = first_row + static_cast<int>(threadIdx.x);
    const GroupRow own = RowAt(work, row, kv_head);
    shared.last_columns[threadIdx.x] = own.counts ? own.last_column : -1;
    shared.slice_numbers[threadIdx.x] =
        row / rows_of_tile < work.tiles
            ? work.slice_of[work.first_tile + row / rows_of_tile]
            : -1;
  }
  __syncthreads();
  // One run of a slice's rows after another; mostly there is one.
  for (int begin_row = 0, end_row; begin_row < kSide; begin_row = end_row) {
    const int slice_number = shared.slice_numbers[begin_row];
    if (slice_number < 0) break;
    const bool is_in = threadIdx.x < kSide &&
                       shared.slice_numbers[threadIdx.x] == slice_number;
    end_row = begin_row + __syncthreads_count(is_in);
    const bool asked =
        __syncthreads_or(is_in && shared.last_columns[threadIdx.x] >= 0);
    const int4 last = TileAt(
        work.args, work.first_tile + (first_row + end_row - 1) / rows_of_tile);
    const int slice = last.x;
    const int end = last.w + last.z;  // of positions that some row sees
    if (!asked || first_column >= (OwnBlock(last) + 1) * work.block_groups) {
      continue;
    }

    // This thread copies chunk `chunk` of four rows and four columns.
    const int chunk = threadIdx.x % 8;
    OperandRow left[4], right[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i * 32 + threadIdx.x / 8;
      left[i] = QueriesAt(work, first_row + r, kv_head, slice);
      right[i] =
          KeysAt(work, slice_number, slice, end, first_column + r, kv_head);
    }
    const auto load = [&](int step) {
      if (step < steps) {
        auto& stage = shared.operands[step % kStages];
        const int slot = step * kStepDepth >> head_bits;
        const int within = (step * kStepDepth & (head_dim - 1)) + chunk * 8;
        using Distance = std::conditional_t<kPooled, int, std::int64_t>;
        const Distance left_at =
            within +
            (kPooled ? slot % 2 * head_dim
                     : static_cast<Distance>(-slot * work.args.query_stride));
        const int right_at = within + (kPooled ? slot / 2 : slot) * head_dim;
        const auto copy = [&](const __nv_bfloat16(&to)[kSide][kStepDepth],
                              int r, const void* matrix, const OperandRow& from,
                              Distance at) {
          const bool exists = kPooled ? from.chunk != kNoChunk
                                      : slot >= from.begin && slot < from.end;
          CopyChunk(ChunkOf(to, r, chunk),
                    static_cast<const __nv_bfloat16*>(matrix) +
                        (exists ? std::int64_t{from.chunk} * 8 + at : 0),
                    exists);
        };
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int r = i * 32 + threadIdx.x / 8;
          copy(stage[0], r, kPooled ? work.query_means : work.args.queries,
               left[i], left_at);
          copy(stage[1], r, kPooled ? work.key_means : work.args.kv.keys,
               right[i], right_at);
        }
      }
      CommitCopies();
    };
    float sums[4][16];
#pragma unroll
    for (auto& of_rows : sums) {
#pragma unroll
      for (float& sum : of_rows) sum = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) load(step);
    for (int step = 0; step < steps; ++step) {
      WaitForCopies<kStages - 2>();
      __syncthreads();
      load(step + kStages - 1);
      MultiplyStep(shared, step % kStages, sums);
    }
    WaitForCopies<0>();
    __syncthreads();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        shared.scores[warp / 4 * 64 + r * 16 + i % 4 / 2 * 8 + lane / 4]
                     [warp % 4 * 32 + i / 4 * 8 + lane % 4 * 2 + i % 2] =
            sums[r][i];
      }
    }
    __syncthreads();
    StoreSums(work, shared, first_row, begin_row, end_row, first_column,
              kv_head);
    __syncthreads();
  }
}

template <int kHeadDim>
__device__ __forceinline__ void StoreMean(const Vector8& mean,
                                          __nv_bfloat16* to) {
  Vector8 upper, lower;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    upper.of[i] = __bfloat162float(__float2bfloat16(mean.of[i]));
    lower.of[i] = mean.of[i] - upper.of[i];
  }
  Store8(upper, to);
  Store8(lower, to + kHeadDim);
}

// The mean of `count` rows of this warp's head, `stride` apart, as two halves,
// and, if `gated`, the mean cosine of all pairs. A lane has 16 bytes of every
// second row (head_dim 64: every fourth).
template <int kHeadDim>
__device__ __forceinline__ void PoolRows(const __nv_bfloat16* rows, int count,
                                         std::int64_t stride, bool gated,
                                         __nv_bfloat16* mean,
                                         float* similarity) {
  constexpr int kLanes = kHeadDim / 8, kAtOnce = 32 / kLanes;
  const int lane = threadIdx.x % 32;
  const int row = lane / kLanes, first = lane % kLanes * 8;
  float sums[8] = {}, units[8] = {};
  const auto add = [&](const uint4& read, auto measures) {
    const Vector8 values = ToFloats(read);
    if constexpr (measures.value) {
      float square = 0.0f;
#pragma unroll
      for (float value : values.of) square += value * value;
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        square += __shfl_xor_sync(kAll, square, step);
      }
      const float inverse = square == 0.0f ? 0.0f : rsqrtf(square);
#pragma unroll
      for (int i = 0; i < 8; ++i) units[i] += values.of[i] * inverse;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] += values.of[i];
  };
  const auto add_all = [&](auto measures) {
    constexpr int kUnrolled = measures.value ? 4 : 8;
    for (int r = 0; r < count; r += kAtOnce * kUnrolled) {
      uint4 read[kUnrolled];
#pragma unroll
      for (int i = 0; i < kUnrolled; ++i) {
        const int at = r + i * kAtOnce + row;
        read[i] = at < count ? __ldg(reinterpret_cast<const uint4*>(
                                   rows + at * stride + first))
                             : uint4{};
      }
#pragma unroll
      for (int i = 0; i < kUnrolled; ++i) add(read[i], measures);
    }
  };
  if (gated) {
    add_all(std::true_type());
  } else {
    add_all(std::false_type());
  }
  const float share = 1.0f / static_cast<float>(count);
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int step = kLanes; step < 32; step *= 2) {
      sums[i] += __shfl_xor_sync(kAll, sums[i], step);
      units[i] += __shfl_xor_sync(kAll, units[i], step);
    }
    square += units[i] * share * (units[i] * share);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    square += __shfl_xor_sync(kAll, square, step);
  }
  if (lane == 0) *similarity = square;
  if (row != 0) return;
  Vector8 value;
#pragma unroll
  for (int i = 0; i < 8; ++i) value.of[i] = sums[i] * share;
  StoreMean<kHeadDim>(value, mean + first);
}

struct PoolWork {
  GroupWork work;
  std::int64_t key_means;  // how many, for thread blocks ahead of the others
};

// A warp for each block of keys of a slice and KV head, then for each query
// head of a tile.
template <int kHeadDim>
__global__ void __launch_bounds__(kPoolThreads, 3) Pool(const PoolWork pool) {
  const GroupWork& work = pool.work;
  const BlockSelectionArgs& args = work.args;
  WaitForDependency();
  LetDependentsStart();
  const bool gated = work.similarity > -INFINITY;
  std::int64_t unit =
      std::int64_t{blockIdx.x} * (kPoolThreads / 32) + threadIdx.x / 32;
  if (unit < pool.key_means) {
    const int block = static_cast<int>(unit % args.most_blocks);
    const auto pair = static_cast<int>(unit / args.most_blocks);
    const int kv_head = pair % args.kv.kv_heads;
    const int4 last =
        TileAt(args, args.first_tiles[pair / args.kv.kv_heads + 1] - 1);
    const int end = last.w + last.z;
    if (block * 64 >= end) return;
    const std::int64_t page =
        args.kv.page_tables[last.x * args.kv.page_table_stride + block];
    const std::int64_t head_of_page = page * args.kv.kv_heads + kv_head;
    __nv_bfloat16* const mean = work.key_means + unit * 2 * kHeadDim;
    if (args.mean_keys != nullptr && !gated && (block + 1) * 64 <= end) {
      const int first = static_cast<int>(threadIdx.x) % 32 * 8;
      if (first < kHeadDim) {
        StoreMean<kHeadDim>(
            Load8(args.mean_keys + head_of_page * kHeadDim + first),
            mean + first);
      }
      if (first == 0) work.key_similarities[unit] = 0.0f;
      return;
    }
    PoolRows<kHeadDim>(static_cast<const __nv_bfloat16*>(args.kv.keys) +
                           head_of_page * 64 * kHeadDim,
                       min(64, end - block * 64), kHeadDim, gated, mean,
                       work.key_similarities + unit);
    return;
  }
  unit -= pool.key_means;
  const int tile = static_cast<int>(unit / args.heads);
  const int head = static_cast<int>(unit % args.heads);
  const int kv_head = head / work.group();
  if (tile >= work.tiles || !IsAsked(work, work.first_tile + tile, kv_head)) {
    return;
  }
  const int4 fields = TileAt(args, work.first_tile + tile);
  const std::int64_t at =
      (std::int64_t{kv_head} * work.tiles + tile) * work.group() +
      head % work.group();
  PoolRows<kHeadDim>(static_cast<const __nv_bfloat16*>(args.queries) +
                         fields.y * args.query_stride + head * kHeadDim,
                     fields.z, args.query_stride, gated,
                     work.query_means + at * 2 * kHeadDim,
                     work.query_similarities + at);
}

struct PairWork {
  BlockSelectionArgs args;
  std::int32_t* slice_of;  // [tiles]
  std::int32_t* lengths;   // [tiles, kv_heads]: blocks of the list of a pair
};

// Number of the slice that each tile belongs to; list_of as the base has it.
__global__ void BeginLists(const PairWork work) {
  WaitForDependency();
  LetDependentsStart();
  const BlockSelectionArgs& args = work.args;
  const int tile = blockIdx.x * blockDim.x + threadIdx.x;
  if (tile >= args.tiles) return;
  int low = 0, high = args.slices;  // first_tiles[low] <= tile
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (args.first_tiles[middle] <= tile ? low : high) = middle;
  }
  work.slice_of[tile] = low;
  for (int head = 0; head < args.kv.kv_heads; ++head) {
    const int pair = tile * args.kv.kv_heads + head;
    const int list = args.base_list_of[pair];
    args.chosen.list_of[pair] = list;
    if (args.rule_of[pair] >= 0) continue;
    const ChosenLists& lists = args.chosen;
    work.lengths[pair] = static_cast<std::int32_t>(
        lists.full_offsets[list + 1] - lists.full_offsets[list] +
        lists.partial_offsets[list + 1] - lists.partial_offsets[list]);
  }
}

// All blocks, when `all`; else those of `threshold` and forced ones.
struct ListWriter {
  const BlockSelectionArgs& args;
  std::int32_t* lengths;  // as in PairWork
  int tile_number;
  int kv_head;
  int4 tile;

  __device__ __forceinline__ std::int64_t pair() const {
    return std::int64_t{tile_number} * args.kv.kv_heads + kv_head;
  }
  __device__ __forceinline__ std::int32_t* full() const {
    return args.chosen.full_blocks + args.chosen.base_full_blocks +
           pair() * args.most_blocks;
  }
  // `count`: full blocks that were written.
  __device__ __forceinline__ void End(int count) const {
    const ChosenLists& chosen = args.chosen;
    const std::int64_t partial = chosen.base_partial_blocks + pair();
    if (threadIdx.x == 0 && chosen.counts != nullptr) {
      chosen.counts[pair()] = count + 1;
    }
    if (threadIdx.x == 0) {
      const std::int64_t list = chosen.base_lists + 1 + 2 * pair();
      const std::int64_t first =
          chosen.base_full_blocks + pair() * args.most_blocks;
      chosen.list_of[pair()] = static_cast<std::int32_t>(list);
      chosen.full_offsets[list] = first;
      chosen.full_offsets[list + 1] = first + count;
      chosen.partial_offsets[list] = partial;
      chosen.partial_offsets[list + 1] = partial + 1;
      chosen.partial_blocks[partial] = OwnBlock(tile);
      lengths[pair()] = count + 1;
    }
    if (chosen.partial_masks != nullptr && threadIdx.x < 64) {
      const int seen = tile.w % 64 + static_cast<int>(threadIdx.x) + 1;
      chosen.partial_masks[partial * 64 + threadIdx.x] =
          seen >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << seen) - 1;
    }
  }
  __device__ __forceinline__ void WriteAll() const {
    const int own = OwnBlock(tile);
    for (int b = threadIdx.x; b < own; b += kChoiceThreads) full()[b] = b;
    End(own);
  }
};

// A maximum, and what is added up relative to it.
struct Top {
  float greatest = -INFINITY;
  float sum = 0.0f;

  __device__ __forceinline__ void Join(float other, float other_sum) {
    const float joined = fmaxf(greatest, other);
    sum = joined == -INFINITY ? sum + other_sum
                              : sum * PowerOf2(greatest - joined) +
                                    other_sum * PowerOf2(other - joined);
    greatest = joined;
  }
};

// The log of the sum of a row's exponentials, in units of log(2), of `kLanes`
// neighbouring lanes for the first; infinity for rows that weigh nothing.
template <int kLanes>
__device__ __forceinline__ float RowSum(const float2* tops, int count) {
  constexpr int kAtOnce = 4;  // loads
  Top top;
  for (int i = threadIdx.x % kLanes; i < count; i += kLanes * kAtOnce) {
    float2 read[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int at = i + j * kLanes;
      read[j] = at < count ? tops[at] : float2{-INFINITY, 0.0f};
    }
#pragma unroll
    for (const float2& one : read) top.Join(one.x, one.y);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kAll, top.greatest, step);
    top.Join(other, __shfl_xor_sync(kAll, top.sum, step));
  }
  if (isnan(top.sum)) return NAN;
  return top.greatest == -INFINITY ? INFINITY : top.greatest + __log2f(top.sum);
}

// A thread block for each pair, of which those with kRowList get their row's.
__global__ void __launch_bounds__(kChoiceThreads)
    TakeRowLists(const PairWork work) {
  WaitForDependency();
  LetDependentsStart();
  const BlockSelectionArgs& args = work.args;
  const int kv_head = static_cast<int>(blockIdx.x) % args.kv.kv_heads;
  const int tile = static_cast<int>(blockIdx.x) / args.kv.kv_heads;
  if (args.rule_of[blockIdx.x] != kRowList) return;
  const int4 fields = TileAt(args, tile);
  const ListWriter writer = {args, work.lengths, tile, kv_head, fields};
  const std::int64_t row = std::int64_t{fields.y} * args.kv.kv_heads + kv_head;
  const int count = args.row_lists.block_counts[row];
  if (count == kAllBlocks) return writer.WriteAll();
  const std::int32_t* const from =
      args.row_lists.blocks + args.row_lists.block_offsets[row];
  std::int32_t* const full = writer.full();
  for (int i = threadIdx.x; i + 1 < count; i += kChoiceThreads) {
    full[i] = from[i];
  }
  writer.End(count - 1);
}

// From what products left to a list.
__global__ void __launch_bounds__(kChoiceThreads, 8)
    ChooseByMass(const GroupWork work) {
  extern __shared__ uint4 memory[];
  auto* const words = reinterpret_cast<std::uint32_t*>(memory);
  __shared__ ChoiceScratch<kChoiceThreads> scratch;
  WaitForDependency();
  LetDependentsStart();
  const BlockSelectionArgs& args = work.args;
  // Long rows first.
  const int kv_head = blockIdx.x % args.kv.kv_heads;
  const int tile =
      work.tiles - 1 - static_cast<int>(blockIdx.x) / args.kv.kv_heads;
  const int tile_number = work.first_tile + tile;
  if (!IsAsked(work, tile_number, kv_head)) return;
  const int4 fields = TileAt(args, tile_number);
  const ListWriter writer = {args, work.lengths, tile_number, kv_head, fields};
  const int blocks = OwnBlock(fields) + 1;
  const int rows = work.rows_of_tile();
  const std::int64_t first_row =
      (std::int64_t{kv_head} * work.tiles + tile) * rows;

  const float* alike = nullptr;  // of key blocks
  if (work.stride == 0) {
    alike = work.key_similarities +
            (std::int64_t{work.slice_of[tile_number]} * args.kv.kv_heads +
             kv_head) *
                args.most_blocks;
    bool unlike = false;
    for (int h = 0; h < rows; ++h) {
      unlike =
          unlike || work.query_similarities[first_row + h] < work.similarity;
    }
    if (unlike) return writer.WriteAll();
  }
  if (work.mass >= 1.0f) return writer.WriteAll();
  // Said so that NaN is scored.
  const auto is_left_out = [&](int b) {
    return alike != nullptr && alike[b] < work.similarity;
  };

  const int room = RoundedUp4(args.most_blocks);
  auto* const row_sums = reinterpret_cast<float*>(words + 2 * room);
  const float2* const tops = work.tops + first_row * work.column_tiles;
  constexpr int kLanes = 8;
  for (int base = 0; base < rows; base += kChoiceThreads / kLanes) {
    const int r = base + static_cast<int>(threadIdx.x) / kLanes;
    const bool counts =
        r < rows && RowAt(work, tile * rows + r, kv_head).counts;
    const float sum = RowSum<kLanes>(tops + std::int64_t{r} * work.column_tiles,
                                     counts ? ColumnTilesOf(work, fields) : 0);
    if (threadIdx.x % kLanes == 0 && r < rows) row_sums[r] = sum;
  }
  __syncthreads();
  BlockRow row = {words, words + room, blocks};
  auto* const scores = reinterpret_cast<float*>(row.keys);
  const float* const sums = work.sums + first_row * work.row_blocks();
  const int tile_bits = __ffs(work.tile_blocks()) - 1;
  double total = 0;
  for (int b = threadIdx.x * 2; b < blocks; b += kChoiceThreads * 2) {
    const float2* const top = tops + (b >> tile_bits);
    float2 score = {};
    for (int first = 0; first < rows; first += kRowsAtOnce) {
      float2 read[kRowsAtOnce];
      float greatest[kRowsAtOnce];
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        // The last row once more, which then weighs nothing.
        const int r = min(first + i, rows - 1);
        read[i] = __ldcs(
            reinterpret_cast<const float2*>(sums + r * work.row_blocks() + b));
        greatest[i] = top[r * work.column_tiles].x;
      }
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const float row_sum = first + i < rows ? row_sums[first + i] : INFINITY;
        // What a row holds that weighs nothing is no number, perhaps.
        if (row_sum == INFINITY) continue;
        const float share = PowerOf2(greatest[i] - row_sum);
        score.x += read[i].x * share;
        score.y += read[i].y * share;
      }
    }
    *reinterpret_cast<float2*>(scores + b) = score;
    total += score.x;
    if (b + 1 < blocks) total += score.y;
  }
  total = TotalOf<kChoiceThreads>(total, scratch);
  if (!isfinite(total)) return writer.WriteAll();  // garbage comes to light

  // Weights in 2^-31 of the total.
  const auto is_forced = [&](int b) {
    return b == 0 || b == blocks - 1 || is_left_out(b);
  };
  const float unit =
      total > 0 ? __fdividef(2147483648.0f, static_cast<float>(total)) : 0.0f;
  unsigned forced = 0, all = 0;
  for (int b = threadIdx.x; b < blocks; b += kChoiceThreads) {
    const float score = scores[b];
    const unsigned weight = __float2uint_rn(score * unit);
    all += weight;
    if (is_forced(b)) forced += weight;
    row.keys[b] = OrderedKey(score);
    row.weights[b] = is_forced(b) ? 0 : weight;
  }
  all = SumOf<kChoiceThreads>(all, 0, scratch);
  forced = SumOf<kChoiceThreads>(forced, 1, scratch);
  const auto target = static_cast<unsigned>(
      ceil(static_cast<double>(work.mass) * static_cast<double>(all)));
  Threshold threshold = {0xffffffffu, 0};  // no finite score's key
  __syncthreads();
  if (target > forced) {
    threshold = FindThreshold<kChoiceThreads>(row, target - forced, scratch);
  }
  std::int32_t* const full = writer.full();
  const int count = WriteChosen<kChoiceThreads>(
      row, threshold, is_forced,
      [&](int place, int b) {
        if (b < blocks - 1) full[place] = b;
      },
      scratch);
  writer.End(count - 1);
}

// Four threads for each tile: how many of its KV head have longer lists, or the
// same and come later.
__global__ void __launch_bounds__(kOrderThreads)
    OrderPairs(const PairWork work) {
  constexpr int kAtOnce = 1024;
  __shared__ int lengths[kAtOnce];
  WaitForDependency();
  LetDependentsStart();
  const BlockSelectionArgs& args = work.args;
  const int kv_head = blockIdx.x % args.kv.kv_heads;
  const int tile = blockIdx.x / args.kv.kv_heads * kOrderTiles +
                   static_cast<int>(threadIdx.x) / kOrderParts;
  const auto length_of = [&](int t) {
    return work.lengths[t * args.kv.kv_heads + kv_head];
  };
  const int own = tile < args.tiles ? length_of(tile) : 0;
  int rank = 0;
  for (int first = 0; first < args.tiles; first += kAtOnce) {
    __syncthreads();
    const int count = min(kAtOnce, args.tiles - first);
    for (int i = threadIdx.x; i < count; i += kOrderThreads) {
      lengths[i] = length_of(first + i);
    }
    __syncthreads();
#pragma unroll 8
    for (int i = threadIdx.x % kOrderParts; i < count; i += kOrderParts) {
      rank += lengths[i] > own || (lengths[i] == own && first + i > tile);
    }
  }
  rank += __shfl_xor_sync(kAll, rank, 1);
  rank += __shfl_xor_sync(kAll, rank, 2);
  if (tile < args.tiles && threadIdx.x % kOrderParts == 0) {
    args.chosen.order[kv_head * args.tiles + rank] =
        tile * args.kv.kv_heads + kv_head;
  }
}

// Parts of the workspace, each 256 bytes aligned.
class Room {
 public:
  Room(void* begin, std::int64_t bytes)
      : begin_(static_cast<char*>(begin)), bytes_(bytes) {}
  template <class T>
  T* Take(std::int64_t count) {
    T* const taken = reinterpret_cast<T*>(begin_ + used_);
    used_ += (count * static_cast<std::int64_t>(sizeof(T)) + 255) / 256 * 256;
    return taken;
  }
  std::int64_t left() const { return bytes_ - used_; }

 private:
  char* begin_;
  std::int64_t bytes_;
  std::int64_t used_ = 0;
};

LaunchStatus TooSmall(std::int64_t missing) {
  return LaunchStatus::Error("the workspace of block selection lacks " +
                             std::to_string(missing) +
                             " bytes for one tile of these arguments");
}

struct Launcher {
  bool hopper;
  int multiprocessors;
  cudaStream_t stream;

  template <class Args>
  LaunchStatus Launch(void (*kernel)(Args), std::int64_t thread_blocks,
                      int threads, int bytes, const Args& args) const {
    constexpr std::int64_t kMost = 0x7fffffff;
    if (thread_blocks > kMost) {
      return OutOfRange("thread blocks of a launch of block selection",
                        thread_blocks, "below 2^31");
    }
    return LaunchDependent(
        kernel,
        {static_cast<unsigned>(thread_blocks), static_cast<unsigned>(threads),
         static_cast<unsigned>(bytes)},
        args, stream, "launch of block selection");
  }
};

// `key_means`: how many are missing.
LaunchStatus LaunchPool(const GroupWork& work, std::int64_t key_means,
                        const Launcher& launcher) {
  const std::int64_t units =
      key_means + std::int64_t{work.tiles} * work.args.heads;
  constexpr int kWarps = kPoolThreads / 32;
  return launcher.Launch<PoolWork>(
      work.args.kv.head_dim == 64 ? Pool<64> : Pool<128>,
      (units + kWarps - 1) / kWarps, kPoolThreads, 0, {work, key_means});
}

LaunchStatus LaunchProducts(const GroupWork& work, const Launcher& launcher) {
  if (launcher.hopper && work.stride > 0) {
    return LaunchHopperProducts(work, launcher.multiprocessors,
                                launcher.stream);
  }
  const std::int64_t rows = std::int64_t{work.tiles} * work.rows_of_tile();
  return launcher.Launch<GroupWork>(
      work.stride == 0 ? GroupProducts<true> : GroupProducts<false>,
      (rows + kSide - 1) / kSide * work.args.kv.kv_heads * work.column_tiles,
      kProductThreads, sizeof(ProductShared), work);
}

LaunchStatus LaunchTiles(const GroupWork& work, std::int64_t key_means,
                         const Launcher& launcher) {
  if (work.stride == 0) {
    if (auto status = LaunchPool(work, key_means, launcher); !status.ok()) {
      return status;
    }
  }
  if (auto status = LaunchProducts(work, launcher); !status.ok()) return status;
  // Compiled code reads the rows' sums up to four at a time.
  const int bytes =
      BlockRowBytes(RoundedUp4(work.args.most_blocks)) +
      RoundedUp4(work.rows_of_tile()) * static_cast<int>(sizeof(float));
  return launcher.Launch<GroupWork>(
      ChooseByMass, std::int64_t{work.tiles} * work.args.kv.kv_heads,
      kChoiceThreads, bytes, work);
}

// What a rule needs of the workspace.
struct RuleRoom {
  std::int64_t key_means = 0;  // how many
  std::int64_t keys = 0;       // bytes of these
  std::int64_t beside = 0;     // bytes that do not depend on tiles
  std::int64_t a_tile = 0;     // bytes of each tile that is worked on at once
};

RuleRoom RoomOf(const GroupWork& work, bool hopper) {
  const BlockSelectionArgs& args = work.args;
  const std::int64_t kv_heads = args.kv.kv_heads;
  const std::int64_t mean_bytes = 4 * args.kv.head_dim + sizeof(float);
  const std::int64_t rows = kv_heads * work.rows_of_tile();
  RuleRoom room;
  room.a_tile = rows * (work.row_blocks() * sizeof(float) +
                        work.column_tiles * sizeof(float2));
  room.beside = 2048 + HopperProductBytesBeside(work);
  if (work.stride == 0) {
    room.key_means = args.slices * kv_heads * args.most_blocks;
    room.keys = room.key_means * mean_bytes;
    room.a_tile += rows * mean_bytes;
  } else if (hopper) {
    room.a_tile += HopperProductBytes(work);
  }
  return room;
}

LaunchStatus LaunchRule(GroupWork work, Room room, const Launcher& launcher) {
  const BlockSelectionArgs& args = work.args;
  const bool pooled = work.stride == 0;
  const RuleRoom needed = RoomOf(work, launcher.hopper);
  const std::int64_t key_means = needed.key_means;
  if (pooled) {
    work.key_means = room.Take<__nv_bfloat16>(key_means * 2 * args.kv.head_dim);
    work.key_similarities = room.Take<float>(key_means);
  }
  const std::int64_t rows = args.kv.kv_heads * work.rows_of_tile();
  const std::int64_t fitting = (room.left() - needed.beside) / needed.a_tile;
  if (room.left() < needed.beside || fitting < 1) {
    return TooSmall(needed.a_tile + needed.beside - room.left());
  }
  const std::int64_t at_once = std::min<std::int64_t>(fitting, args.tiles);
  work.sums = room.Take<float>(at_once * rows * work.row_blocks());
  work.tops = room.Take<float2>(at_once * rows * work.column_tiles);
  if (pooled) {
    work.query_means =
        room.Take<__nv_bfloat16>(at_once * rows * 2 * args.kv.head_dim);
    work.query_similarities = room.Take<float>(at_once * rows);
  } else if (launcher.hopper) {
    work.product_items = reinterpret_cast<int4*>(room.Take<char>(
        HopperProductBytesBeside(work) + at_once * HopperProductBytes(work)));
    work.product_tiles = static_cast<int>(at_once);
  }
  for (std::int64_t first = 0; first < args.tiles; first += at_once) {
    work.first_tile = static_cast<int>(first);
    work.tiles =
        static_cast<int>(std::min<std::int64_t>(at_once, args.tiles - first));
    if (auto status = LaunchTiles(work, first == 0 ? key_means : 0, launcher);
        !status.ok()) {
      return status;
    }
  }
  return LaunchStatus();
}

// False: no kernel runs the rule.
bool Describe(const SelectionRule& rule, GroupWork* work) {
  const BlockSelectionArgs& args = work->args;
  constexpr float kLog2E = 1.44269504f;
  if (const auto* antidiagonal = std::get_if<AntidiagonalRule>(&rule)) {
    work->stride = antidiagonal->stride;
    work->row_groups = work->block_groups = 64 / antidiagonal->stride;
    work->factor =
        args.scale * kLog2E / static_cast<float>(antidiagonal->stride);
    work->mass = antidiagonal->mass;
    work->column_tiles =
        (args.most_blocks * work->block_groups + kColumns - 1) / kColumns;
    return true;
  }
  if (const auto* similarity = std::get_if<SimilarityRule>(&rule)) {
    work->factor = args.scale * kLog2E;
    work->mass = similarity->mass;
    work->column_tiles = (args.most_blocks + kColumns - 1) / kColumns;
    // -1 or less gates nothing, rounding or not.
    work->similarity =
        similarity->similarity <= -1 ? -INFINITY : similarity->similarity;
    return true;
  }
  return false;
}

LaunchStatus CheckArguments(const BlockSelectionArgs& args) {
  if (reinterpret_cast<std::uintptr_t>(args.mean_keys) % 16 != 0) {
    return LaunchStatus::Error("mean_keys must be 16-byte aligned");
  }
  return CheckSelection(args);
}

LaunchStatus CheckRules(const BlockSelectionArgs& args) {
  for (int i = 0; i < args.rule_count; ++i) {
    const SelectionRule& rule = args.rules[i];
    GroupWork work;
    work.args = args;
    if (const auto* antidiagonal = std::get_if<AntidiagonalRule>(&rule)) {
      const int stride = antidiagonal->stride;
      if (stride < 2 || stride > 64 || (stride & (stride - 1)) != 0) {
        return OutOfRange("stride", stride, "a power of two, 2 to 64");
      }
    } else if (!Describe(rule, &work)) {
      return LaunchStatus::Error(
          "rule " + std::to_string(i) +
          " is of a kind that the GPU does not choose by; AntidiagonalRule "
          "and SimilarityRule are");
    }
  }
  return LaunchStatus();
}

LaunchStatus FindCapability(int* capability) {
  int device = 0, major = 0, minor = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *capability = 10 * major + minor;
  return LaunchStatus();
}

LaunchStatus Prepare(PrefillKernel kernel, int capability) {
  if (kernel == PrefillKernel::kHopper) {
    if (capability != 90) {
      return OutOfRange("the device's compute capability times ten", capability,
                        "90 for Hopper's kernels");
    }
    if (auto status = PrepareHopperProducts(); !status.ok()) return status;
  }
  for (const auto kernel : {GroupProducts<true>, GroupProducts<false>}) {
    if (auto status =
            StatusOf(cudaFuncSetAttribute(
                         kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         sizeof(ProductShared)),
                     "shared memory of group products");
        !status.ok()) {
      return status;
    }
  }
  return StatusOf(cudaFuncSetAttribute(
                      ChooseByMass, cudaFuncAttributeMaxDynamicSharedMemorySize,
                      BlockRowBytes(BlockSelection::kMostBlocks) + 8192),
                  "shared memory of the choice of blocks");
}

}  // namespace

LaunchStatus BlockSelection::Create(std::int64_t workspace_bytes,
                                    std::unique_ptr<BlockSelection>* created) {
  int capability = 0;
  if (auto status = FindCapability(&capability); !status.ok()) return status;
  return Create(
      capability == 90 ? PrefillKernel::kHopper : PrefillKernel::kPortable,
      workspace_bytes, created);
}

LaunchStatus BlockSelection::Create(PrefillKernel kernel,
                                    std::int64_t workspace_bytes,
                                    std::unique_ptr<BlockSelection>* created) {
  int capability = 0, device = 0, multiprocessors = 0;
  if (auto status = FindCapability(&capability); !status.ok()) return status;
  if (auto status = Prepare(kernel, capability); !status.ok()) return status;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount,
                         device);
  void* workspace = nullptr;
  if (auto status = StatusOf(cudaMalloc(&workspace, workspace_bytes),
                             "workspace of block selection");
      !status.ok()) {
    return status;
  }
  created->reset(
      new BlockSelection(kernel, multiprocessors, workspace, workspace_bytes));
  return LaunchStatus();
}

BlockSelection::~BlockSelection() { cudaFree(workspace_); }

std::int64_t BlockSelection::LeastWorkspace(const BlockSelectionArgs& args) {
  constexpr std::int64_t kRounding = 8192;  // that parts are rounded up by
  std::int64_t least = 0;
  for (int i = 0; i < args.rule_count; ++i) {
    GroupWork work;
    work.args = args;
    if (!Describe(args.rules[i], &work)) continue;
    const RuleRoom room = RoomOf(work, /*hopper=*/true);
    least = std::max(least, room.keys + room.beside + room.a_tile);
  }
  const std::int64_t pairs = std::int64_t{args.tiles} * args.kv.kv_heads;
  return least + sizeof(std::int32_t) * (args.tiles + pairs) + kRounding;
}

LaunchStatus BlockSelection::Run(const BlockSelectionArgs& args,
                                 CUstream_st* stream) const {
  if (args.tiles == 0) return LaunchStatus();
  if (auto status = CheckArguments(args); !status.ok()) return status;
  if (auto status = CheckRules(args); !status.ok()) return status;
  Room room(workspace_, workspace_bytes_);
  const std::int64_t pairs = std::int64_t{args.tiles} * args.kv.kv_heads;
  const std::int64_t least = 4 * (args.tiles + pairs) + 512;
  if (room.left() < least) return TooSmall(least - room.left());
  const Launcher launcher = {kernel_ == PrefillKernel::kHopper,
                             multiprocessors_, stream};
  const PairWork of_pairs = {args, room.Take<std::int32_t>(args.tiles),
                             room.Take<std::int32_t>(pairs)};
  if (auto status = launcher.Launch<PairWork>(
          BeginLists, (args.tiles + 127) / 128, 128, 0, of_pairs);
      !status.ok()) {
    return status;
  }
  if (args.row_lists.block_counts != nullptr) {
    if (auto status = launcher.Launch<PairWork>(TakeRowLists, pairs,
                                                kChoiceThreads, 0, of_pairs);
        !status.ok()) {
      return status;
    }
  }
  for (int i = 0; i < args.rule_count; ++i) {
    GroupWork work;
    work.args = args;
    work.rule = i;
    work.slice_of = of_pairs.slice_of;
    work.lengths = of_pairs.lengths;
    Describe(args.rules[i], &work);
    if (auto status = LaunchRule(work, room, launcher); !status.ok()) {
      return status;
    }
  }
  return launcher.Launch<PairWork>(
      OrderPairs,
      (std::int64_t{args.tiles} + kOrderTiles - 1) / kOrderTiles *
          args.kv.kv_heads,
      kOrderThreads, 0, of_pairs);
}

}  // namespace sparseserve::cuda
