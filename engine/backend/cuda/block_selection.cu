// Scores of groups of queries and keys, and lists from them, for compute
// capability 8.0 and later.
//
// Work split: products by thread blocks of 128 rows x 128 columns, whose rows
// are those of several tiles; a thread block for each pair of tile and KV head
// then chooses and writes its list.
// Memory traffic: a float for each row and block, written and read twice.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/block_choice.cuh"
#include "engine/backend/cuda/block_selection.h"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/decode_attention.h"
#include "engine/backend/cuda/group_scores.cuh"
#include "engine/backend/cuda/mma_sync.cuh"

namespace sparseserve::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kProductThreads = 256;
constexpr int kSide = 128;      // rows and columns of a thread block
constexpr int kStepDepth = 64;  // elements of a row at a time
constexpr int kStages = 3;
constexpr int kChoiceThreads = 128;
constexpr int kScorePitch = kSide + 4;

struct ProductShared {
  union {
    __nv_bfloat16 operands[kStages][2][kSide][kStepDepth];
    float scores[kSide][kScorePitch];
  };
};

__device__ __forceinline__ int4 TileAt(const BlockSelectionArgs& args,
                                       int tile) {
  return __ldg(reinterpret_cast<const int4*>(args.tile_fields) + tile);
}
__device__ __forceinline__ int OwnBlock(const int4& tile) {
  return (tile.w + tile.z - 1) / 64;
}

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
  row.counts =
      row.counts &&
      work.args.rule_of[(work.first_tile + tile) * work.args.kv.kv_heads +
                        kv_head] == work.rule;
  return row;
}

// Of one row or column of operands, vectors of head_dim elements: slot s of
// [begin, end) is `chunk` and s steps behind the matrix's beginning, other
// slots are zeros.
struct OperandRow {
  std::uint32_t chunk = 0;  // of 8 elements
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
    operand.end = 3;
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
    operand.end = 3;
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

// Of the thread block's rows and blocks of columns, the log of the sum of
// exponentials. Rows that another slice's tiles have are not written.
__device__ __forceinline__ void StoreSums(const GroupWork& work,
                                          const ProductShared& shared,
                                          int first_row, int first_column,
                                          int kv_head, int slice) {
  const int groups = work.block_groups;
  const int blocks = kSide / groups;
  for (int i = threadIdx.x; i < kSide * blocks; i += kProductThreads) {
    const int r = i / blocks, b = i % blocks;
    const GroupRow row = RowAt(work, first_row + r, kv_head);
    const int block = first_column / groups + b;
    if (!row.counts || row.tile.x != slice || block > OwnBlock(row.tile)) {
      continue;
    }
    const float* scores = shared.scores[r] + b * groups;
    const int seen =
        min(groups, row.last_column + 1 - first_column - b * groups);
    float maximum = -INFINITY;
    bool is_number = true;
    for (int c = 0; c < seen; ++c) {
      is_number = is_number && !isnan(scores[c]);
      maximum = fmaxf(maximum, scores[c]);
    }
    float result = maximum;
    if (groups > 1) {
      float sum = 0.0f;
      for (int c = 0; c < seen; ++c) {
        sum += __expf((scores[c] - maximum) * work.factor);
      }
      result = maximum * work.factor + __logf(sum);
    } else {
      result = maximum * work.factor;
    }
    if (!is_number) result = NAN;
    const std::int64_t rows = std::int64_t{work.tiles} * work.rows_of_tile();
    work.sums[(kv_head * rows + first_row + r) * work.args.most_blocks +
              block] = result;
  }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kProductsResident = 1;  // thread blocks of a multiprocessor
#else
constexpr int kProductsResident = 2;
#endif

__global__ void __launch_bounds__(kProductThreads, kProductsResident)
    GroupProducts(const GroupWork work) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  const int kv_head = blockIdx.z;
  const int first_row = blockIdx.y * kSide;
  const int first_column = blockIdx.x * kSide;
  const int rows_of_tile = work.rows_of_tile();
  const int head_dim = work.args.kv.head_dim;
  const int steps =
      (work.stride == 0 ? 3 : work.stride) * head_dim / kStepDepth;
  const int head_bits = head_dim == 64 ? 6 : 7;
  const int end_tile =
      min((first_row + kSide - 1) / rows_of_tile + 1, work.tiles);
  // One run of a slice's tiles after another; mostly there is one.
  for (int tile = first_row / rows_of_tile; tile < end_tile;) {
    const int4 begin = TileAt(work.args, work.first_tile + tile);
    const int slice_number = work.slice_of[work.first_tile + tile];
    bool asked = false;
    int4 last = begin;
    for (; tile < end_tile; ++tile) {
      const int4 fields = TileAt(work.args, work.first_tile + tile);
      if (fields.x != begin.x) break;
      last = fields;
      asked =
          asked ||
          work.args.rule_of[(work.first_tile + tile) * work.args.kv.kv_heads +
                            kv_head] == work.rule;
    }
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
      left[i] = QueriesAt(work, first_row + r, kv_head, begin.x);
      right[i] =
          KeysAt(work, slice_number, begin.x, end, first_column + r, kv_head);
    }
    const auto load = [&](int step) {
      if (step < steps) {
        auto& stage = shared.operands[step % kStages];
        const bool pooled = work.stride == 0;
        const int slot = step * kStepDepth >> head_bits;
        const int within = (step * kStepDepth & (head_dim - 1)) + chunk * 8;
        const std::int64_t left_at =
            within +
            (pooled ? slot % 2 * head_dim : -slot * work.args.query_stride);
        const int right_at = within + (pooled ? slot / 2 : slot) * head_dim;
        const auto copy = [&](const __nv_bfloat16(&to)[kSide][kStepDepth],
                              int r, const void* matrix, const OperandRow& from,
                              std::int64_t at) {
          const bool exists = slot >= from.begin && slot < from.end;
          CopyChunk(ChunkOf(to, r, chunk),
                    static_cast<const __nv_bfloat16*>(matrix) +
                        (exists ? std::int64_t{from.chunk} * 8 + at : 0),
                    exists);
        };
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int r = i * 32 + threadIdx.x / 8;
          copy(stage[0], r, pooled ? work.query_means : work.args.queries,
               left[i], left_at);
          copy(stage[1], r, pooled ? work.key_means : work.args.kv.keys,
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
    StoreSums(work, shared, first_row, first_column, kv_head, begin.x);
    __syncthreads();
  }
}

// The mean of `count` rows of this warp's head, as two halves, and the mean
// cosine of all pairs.
template <class RowOf>
__device__ __forceinline__ void PoolRows(int count, int head_dim,
                                         const RowOf& row_of,
                                         __nv_bfloat16* mean,
                                         float* similarity) {
  const int lane = threadIdx.x % 32;
  const int each = head_dim / 32;  // 2 or 4
  float sums[4] = {}, units[4] = {};
#pragma unroll 4
  for (int r = 0; r < count; ++r) {
    const auto* row = row_of(r) + lane * each;
    float values[4] = {};
    for (int pair = 0; pair < each / 2; ++pair) {
      const float2 two = __bfloat1622float2(
          reinterpret_cast<const __nv_bfloat162*>(row)[pair]);
      values[pair * 2] = two.x;
      values[pair * 2 + 1] = two.y;
    }
    float square = 0.0f;
#pragma unroll
    for (float value : values) square += value * value;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      square += __shfl_xor_sync(kAll, square, step);
    }
    const float inverse = square == 0.0f ? 0.0f : rsqrtf(square);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[i] += values[i];
      units[i] += values[i] * inverse;
    }
  }
  const float share = 1.0f / static_cast<float>(count);
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    square += units[i] * share * (units[i] * share);
    if (i >= each) continue;
    const float value = sums[i] * share;
    const __nv_bfloat16 upper = __float2bfloat16(value);
    mean[lane * each + i] = upper;
    mean[head_dim + lane * each + i] =
        __float2bfloat16(value - __bfloat162float(upper));
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    square += __shfl_xor_sync(kAll, square, step);
  }
  if (lane == 0) *similarity = square;
}

// A warp for each block of keys of a slice and KV head.
__global__ void __launch_bounds__(256) PoolKeys(const GroupWork work) {
  const BlockSelectionArgs& args = work.args;
  const int slice_number = blockIdx.z, kv_head = blockIdx.y;
  const int block = blockIdx.x * 8 + threadIdx.x / 32;
  const int4 last = TileAt(args, args.first_tiles[slice_number + 1] - 1);
  const int end = last.w + last.z;
  if (block * 64 >= end) return;
  const std::int64_t page =
      args.kv.page_tables[last.x * args.kv.page_table_stride + block];
  const auto* keys =
      static_cast<const __nv_bfloat16*>(args.kv.keys) +
      (page * args.kv.kv_heads + kv_head) * 64 * args.kv.head_dim;
  const std::int64_t at =
      (std::int64_t{slice_number} * args.kv.kv_heads + kv_head) *
          args.most_blocks +
      block;
  PoolRows(
      min(64, end - block * 64), args.kv.head_dim,
      [&](int r) { return keys + r * args.kv.head_dim; },
      work.key_means + at * 2 * args.kv.head_dim, work.key_similarities + at);
}

// A warp for each query head of a tile.
__global__ void __launch_bounds__(256) PoolQueries(const GroupWork work) {
  const BlockSelectionArgs& args = work.args;
  const int head = blockIdx.y * 8 + threadIdx.x / 32, tile = blockIdx.x;
  if (head >= args.heads) return;
  const int kv_head = head / work.group();
  if (args.rule_of[(work.first_tile + tile) * args.kv.kv_heads + kv_head] !=
      work.rule) {
    return;
  }
  const int4 fields = TileAt(args, work.first_tile + tile);
  const auto* queries = static_cast<const __nv_bfloat16*>(args.queries) +
                        fields.y * args.query_stride + head * args.kv.head_dim;
  const std::int64_t at =
      (std::int64_t{kv_head} * work.tiles + tile) * work.group() +
      head % work.group();
  PoolRows(
      fields.z, args.kv.head_dim,
      [&](int r) { return queries + r * args.query_stride; },
      work.query_means + at * 2 * args.kv.head_dim,
      work.query_similarities + at);
}

// Number of the slice that each tile belongs to; list_of as the base has it.
__global__ void BeginLists(const BlockSelectionArgs args,
                           std::int32_t* slice_of) {
  const int tile = blockIdx.x * blockDim.x + threadIdx.x;
  if (tile >= args.tiles) return;
  int low = 0, high = args.slices;  // first_tiles[low] <= tile
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (args.first_tiles[middle] <= tile ? low : high) = middle;
  }
  slice_of[tile] = low;
  for (int head = 0; head < args.kv.kv_heads; ++head) {
    const int pair = tile * args.kv.kv_heads + head;
    args.chosen.list_of[pair] = args.base_list_of[pair];
  }
}

// All blocks, when `all`; else those of `threshold` and forced ones.
struct ListWriter {
  const BlockSelectionArgs& args;
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

// A thread block for each pair, of which those with kRowList get their row's.
__global__ void __launch_bounds__(kChoiceThreads)
    TakeRowLists(const BlockSelectionArgs args) {
  const int tile = blockIdx.x, kv_head = blockIdx.y;
  if (args.rule_of[tile * args.kv.kv_heads + kv_head] != kRowList) return;
  const int4 fields = TileAt(args, tile);
  const ListWriter writer = {args, tile, kv_head, fields};
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
  const BlockSelectionArgs& args = work.args;
  // Long rows first.
  const int tile = work.tiles - 1 - static_cast<int>(blockIdx.x);
  const int kv_head = blockIdx.y;
  const int tile_number = work.first_tile + tile;
  if (args.rule_of[tile_number * args.kv.kv_heads + kv_head] != work.rule) {
    return;
  }
  const int4 fields = TileAt(args, tile_number);
  const ListWriter writer = {args, tile_number, kv_head, fields};
  const int blocks = OwnBlock(fields) + 1;
  const int rows = work.rows_of_tile();
  const std::int64_t first_row =
      (std::int64_t{kv_head} * work.tiles + tile) * rows;
  const float* sums = work.sums + first_row * args.most_blocks;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

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

  auto* const lse = reinterpret_cast<float*>(words + 2 * args.most_blocks);
  for (int r = warp; r < rows; r += kChoiceThreads / 32) {
    const float* row = sums + std::int64_t{r} * args.most_blocks;
    float maximum = -INFINITY, sum = 0.0f;
    const bool counts =
        work.stride == 0 || RowAt(work, tile * rows + r, kv_head).counts;
    for (int b = lane; counts && b < blocks; b += 32) {
      if (is_left_out(b)) continue;
      const float value = row[b];
      const float greater = fmaxf(maximum, value);
      sum = sum * __expf(maximum - greater) + __expf(value - greater);
      if (greater == -INFINITY) sum = 0.0f;
      maximum = greater;
      if (isnan(value)) sum = NAN;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAll, maximum, step);
      const float other_sum = __shfl_xor_sync(kAll, sum, step);
      const float greater = fmaxf(maximum, other);
      // In the same order on both sides.
      const float low = (lane & step) == 0 ? maximum : other;
      const float low_sum = (lane & step) == 0 ? sum : other_sum;
      const float high = (lane & step) == 0 ? other : maximum;
      const float high_sum = (lane & step) == 0 ? other_sum : sum;
      sum = greater == -INFINITY ? low_sum + high_sum
                                 : low_sum * __expf(low - greater) +
                                       high_sum * __expf(high - greater);
      maximum = greater;
    }
    // A row that does not count weighs nothing.
    if (lane == 0) {
      lse[r] = counts && maximum != -INFINITY ? maximum + logf(sum)
               : counts && isnan(sum)         ? NAN
                                              : INFINITY;
    }
  }
  __syncthreads();
  BlockRow row = {words, words + args.most_blocks, blocks};
  auto* const scores = reinterpret_cast<float*>(row.keys);
  double total = 0;
  for (int b = threadIdx.x; b < blocks; b += kChoiceThreads) {
    float score = 0.0f;
    if (!is_left_out(b)) {
      for (int r = 0; r < rows; ++r) {
        if (lse[r] == INFINITY) continue;
        score += __expf(sums[std::int64_t{r} * args.most_blocks + b] - lse[r]);
      }
    }
    scores[b] = score;
    total += score;
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
    const auto weight = static_cast<unsigned>(__float2ull_rn(score * unit));
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

// A tile for each thread: how many of its KV head have longer lists, or the
// same and come later.
__global__ void __launch_bounds__(256)
    OrderPairs(const BlockSelectionArgs args) {
  __shared__ int lengths[1024];
  const int kv_head = blockIdx.y;
  const int tile = blockIdx.x * 256 + threadIdx.x;
  const ChosenLists& chosen = args.chosen;
  const auto length_of = [&](int t) {
    const int list = chosen.list_of[t * args.kv.kv_heads + kv_head];
    return static_cast<int>(
        chosen.full_offsets[list + 1] - chosen.full_offsets[list] +
        chosen.partial_offsets[list + 1] - chosen.partial_offsets[list]);
  };
  const int own = tile < args.tiles ? length_of(tile) : 0;
  int rank = 0;
  for (int first = 0; first < args.tiles; first += 1024) {
    __syncthreads();
    for (int i = threadIdx.x; i < 1024 && first + i < args.tiles; i += 256) {
      lengths[i] = length_of(first + i);
    }
    __syncthreads();
    const int count = min(1024, args.tiles - first);
#pragma unroll 8
    for (int i = 0; i < count; ++i) {
      rank += lengths[i] > own || (lengths[i] == own && first + i > tile);
    }
  }
  if (tile < args.tiles) {
    chosen.order[kv_head * args.tiles + rank] =
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

LaunchStatus LaunchTiles(const GroupWork& work, cudaStream_t stream) {
  const int kv_heads = work.args.kv.kv_heads;
  if (work.stride == 0) {
    PoolQueries<<<dim3(work.tiles, (work.args.heads + 7) / 8), 256, 0,
                  stream>>>(work);
  }
  const int rows = work.tiles * work.rows_of_tile();
  const int columns = work.args.most_blocks * work.block_groups;
  GroupProducts<<<dim3((columns + kSide - 1) / kSide,
                       (rows + kSide - 1) / kSide, kv_heads),
                  kProductThreads, sizeof(ProductShared), stream>>>(work);
  // Compiled code reads the rows' log-sum-exps up to four at a time.
  const int bytes =
      BlockRowBytes(work.args.most_blocks) +
      (work.rows_of_tile() + 3) / 4 * 4 * static_cast<int>(sizeof(float));
  ChooseByMass<<<dim3(work.tiles, kv_heads), kChoiceThreads, bytes, stream>>>(
      work);
  return StatusOf(cudaGetLastError(), "launch of block scores");
}

LaunchStatus LaunchRule(GroupWork work, Room room, cudaStream_t stream) {
  const BlockSelectionArgs& args = work.args;
  const std::int64_t kv_heads = args.kv.kv_heads;
  if (work.stride == 0) {
    const std::int64_t blocks = args.slices * kv_heads * args.most_blocks;
    work.key_means = room.Take<__nv_bfloat16>(blocks * 2 * args.kv.head_dim);
    work.key_similarities = room.Take<float>(blocks);
  }
  const std::int64_t rows = kv_heads * work.rows_of_tile();
  std::int64_t bytes_a_tile = rows * args.most_blocks * sizeof(float);
  if (work.stride == 0) bytes_a_tile += rows * (4 * args.kv.head_dim + 4);
  const std::int64_t fitting = (room.left() - 1024) / bytes_a_tile;
  if (room.left() < 1024 || fitting < 1) {
    return TooSmall(bytes_a_tile + 1024 - room.left());
  }
  if (work.stride == 0) {
    PoolKeys<<<dim3((args.most_blocks + 7) / 8, args.kv.kv_heads, args.slices),
               256, 0, stream>>>(work);
  }
  const std::int64_t at_once = std::min<std::int64_t>(fitting, args.tiles);
  work.sums = room.Take<float>(at_once * rows * args.most_blocks);
  if (work.stride == 0) {
    work.query_means =
        room.Take<__nv_bfloat16>(at_once * rows * 2 * args.kv.head_dim);
    work.query_similarities = room.Take<float>(at_once * rows);
  }
  for (std::int64_t first = 0; first < args.tiles; first += at_once) {
    work.first_tile = static_cast<int>(first);
    work.tiles =
        static_cast<int>(std::min<std::int64_t>(at_once, args.tiles - first));
    if (auto status = LaunchTiles(work, stream); !status.ok()) return status;
  }
  return LaunchStatus();
}

// False: no kernel runs the rule.
bool Describe(const SelectionRule& rule, GroupWork* work) {
  const BlockSelectionArgs& args = work->args;
  if (const auto* antidiagonal = std::get_if<AntidiagonalRule>(&rule)) {
    work->stride = antidiagonal->stride;
    work->row_groups = work->block_groups = 64 / antidiagonal->stride;
    work->factor = args.scale / static_cast<float>(antidiagonal->stride);
    work->mass = antidiagonal->mass;
    return true;
  }
  if (const auto* similarity = std::get_if<SimilarityRule>(&rule)) {
    work->factor = args.scale;
    work->mass = similarity->mass;
    // -1 or less gates nothing, rounding or not.
    work->similarity =
        similarity->similarity <= -1 ? -INFINITY : similarity->similarity;
    return true;
  }
  return false;
}

LaunchStatus CheckArguments(const BlockSelectionArgs& args) {
  if (auto status = CheckHeads(args.kv, args.heads); !status.ok()) {
    return status;
  }
  if (auto status = CheckStride("query_stride", args.query_stride,
                                std::int64_t{args.heads} * args.kv.head_dim);
      !status.ok()) {
    return status;
  }
  if (auto status = CheckScale(args.scale); !status.ok()) return status;
  if (args.tiles < 0 || args.tiles > 1 << 20) {
    return OutOfRange("tiles", args.tiles, "0 to 2^20");
  }
  if (args.slices < 1 || args.slices > 65535) {
    return OutOfRange("slices", args.slices, "1 to 65535");
  }
  if (args.most_blocks < 1 || args.most_blocks > BlockSelection::kMostBlocks) {
    return OutOfRange("most_blocks", args.most_blocks, "1 to 8192");
  }
  return CheckAligned("queries, keys and tile_fields",
                      {args.queries, args.kv.keys, args.tile_fields});
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

}  // namespace

LaunchStatus BlockSelection::Create(std::int64_t workspace_bytes,
                                    std::unique_ptr<BlockSelection>* created) {
  if (auto status = StatusOf(
          cudaFuncSetAttribute(GroupProducts,
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               sizeof(ProductShared)),
          "shared memory of group products");
      !status.ok()) {
    return status;
  }
  if (auto status = StatusOf(
          cudaFuncSetAttribute(ChooseByMass,
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               BlockRowBytes(kMostBlocks) + 8192),
          "shared memory of the choice of blocks");
      !status.ok()) {
    return status;
  }
  void* workspace = nullptr;
  if (auto status = StatusOf(cudaMalloc(&workspace, workspace_bytes),
                             "workspace of block selection");
      !status.ok()) {
    return status;
  }
  created->reset(new BlockSelection(workspace, workspace_bytes));
  return LaunchStatus();
}

BlockSelection::~BlockSelection() { cudaFree(workspace_); }

std::int64_t BlockSelection::LeastWorkspace(const BlockSelectionArgs& args) {
  constexpr std::int64_t kRounding = 8192;  // that parts are rounded up by
  const std::int64_t kv_heads = args.kv.kv_heads;
  const std::int64_t mean_bytes = 4 * args.kv.head_dim + sizeof(float);
  std::int64_t least = 0;
  for (int i = 0; i < args.rule_count; ++i) {
    GroupWork work;
    work.args = args;
    if (!Describe(args.rules[i], &work)) continue;
    const std::int64_t rows = kv_heads * work.rows_of_tile();
    std::int64_t bytes = rows * args.most_blocks * sizeof(float);
    if (work.stride == 0) {
      bytes += (rows + args.slices * kv_heads * args.most_blocks) * mean_bytes;
    }
    least = std::max(least, bytes);
  }
  return least + sizeof(std::int32_t) * std::int64_t{args.tiles} + kRounding;
}

LaunchStatus BlockSelection::Run(const BlockSelectionArgs& args,
                                 CUstream_st* stream) const {
  if (args.tiles == 0) return LaunchStatus();
  if (auto status = CheckArguments(args); !status.ok()) return status;
  if (auto status = CheckRules(args); !status.ok()) return status;
  Room room(workspace_, workspace_bytes_);
  if (room.left() < 4 * std::int64_t{args.tiles} + 256) {
    return TooSmall(4 * std::int64_t{args.tiles} + 256 - room.left());
  }
  std::int32_t* const slice_of = room.Take<std::int32_t>(args.tiles);
  BeginLists<<<(args.tiles + 127) / 128, 128, 0, stream>>>(args, slice_of);
  if (args.row_lists.block_counts != nullptr) {
    TakeRowLists<<<dim3(args.tiles, args.kv.kv_heads), kChoiceThreads, 0,
                   stream>>>(args);
  }
  for (int i = 0; i < args.rule_count; ++i) {
    GroupWork work;
    work.args = args;
    work.rule = i;
    work.slice_of = slice_of;
    Describe(args.rules[i], &work);
    if (auto status = LaunchRule(work, room, stream); !status.ok()) {
      return status;
    }
  }
  OrderPairs<<<dim3((args.tiles + 255) / 256, args.kv.kv_heads), 256, 0,
               stream>>>(args);
  return StatusOf(cudaGetLastError(), "launch of the order of tiles");
}

}  // namespace sparseserve::cuda
