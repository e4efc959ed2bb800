#pragma once

// FlexPrefillRule: from sums of keys and distances, and from mean queries and
// keys, to blocks.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/chosen_lists.cuh"
#include "engine/backend/cuda/last_rows_choice.cuh"
#include "engine/backend/cuda/power_sum.cuh"

namespace sparseserve::cuda {

constexpr int kMostGroup = 16;  // query heads of a KV head, and rows of a map
constexpr int kPoolWarps = 8;
constexpr int kMapThreads = 256;

__device__ __forceinline__ bool IsFlex(const LastRowsWork& work,
                                       const LastRows& rows) {
  return rows.rule >= 0 && work.rules[rows.rule].is_flex;
}

__device__ __forceinline__ const __nv_bfloat16* QueriesOf(
    const LastRowsWork& work, std::int64_t row, int head, int h) {
  return static_cast<const __nv_bfloat16*>(work.args.queries) +
         row * work.args.query_stride +
         (head % work.args.kv.kv_heads * work.group() + h) *
             work.args.kv.head_dim;
}

// A warp for each block of keys: its mean.
__global__ void __launch_bounds__(kPoolWarps * 32)
    PoolKeyBlocks(const LastRowsWork work) {
  WaitForDependency();
  LetDependentsStart();
  const PagedKv& kv = work.args.kv;
  const int thread_blocks =
      (work.args.most_blocks + kPoolWarps - 1) / kPoolWarps;
  const int head = blockIdx.x / thread_blocks;
  const int block = blockIdx.x % thread_blocks * kPoolWarps + threadIdx.x / 32;
  const LastRows rows = RowsOfHead(work, head);
  if (!IsFlex(work, rows) || block >= rows.blocks()) return;
  const std::int64_t page =
      kv.page_tables[rows.slice * kv.page_table_stride + block];
  const auto* keys =
      static_cast<const __nv_bfloat162*>(kv.keys) +
      (page * kv.kv_heads + head % kv.kv_heads) * 32 * kv.head_dim;
  const int count = min(64, rows.end - block * 64);
  for (int pair = threadIdx.x % 32; pair < kv.head_dim / 2; pair += 32) {
    float2 sum = {0.0f, 0.0f};
#pragma unroll 8
    for (int r = 0; r < count; ++r) {
      const float2 two = __bfloat1622float2(keys[r * kv.head_dim / 2 + pair]);
      sum.x += two.x;
      sum.y += two.y;
    }
    float* const mean =
        work.key_means +
        (std::int64_t{head} * kv.head_dim + pair * 2) * work.args.most_blocks +
        block;
    mean[0] = sum.x / static_cast<float>(count);
    mean[work.args.most_blocks] = sum.y / static_cast<float>(count);
  }
}

// Products of a block's mean key and up to kMostGroup mean queries, which lie
// [head_dim][kMostGroup] in shared memory.
__device__ __forceinline__ void MeanProducts(const LastRowsWork& work, int head,
                                             int block, const float* queries,
                                             float (&products)[kMostGroup]) {
  const int width = work.args.kv.head_dim;
  const float* means = work.key_means +
                       std::int64_t{head} * width * work.args.most_blocks +
                       block;
#pragma unroll
  for (float& product : products) product = 0.0f;
#pragma unroll 4
  for (int d = 0; d < width; ++d) {
    const float key = means[std::int64_t{d} * work.args.most_blocks];
    const auto* of_rows =
        reinterpret_cast<const float4*>(queries + d * kMostGroup);
#pragma unroll
    for (int i = 0; i < kMostGroup / 4; ++i) {
      const float4 four = of_rows[i];
      products[i * 4] += four.x * key;
      products[i * 4 + 1] += four.y * key;
      products[i * 4 + 2] += four.z * key;
      products[i * 4 + 3] += four.w * key;
    }
  }
}

__device__ __forceinline__ float KeySum(const LastRowsWork& work, int head,
                                        int key) {
  float sum = 0.0f;
  for (int chunk = 0; chunk < work.chunks; ++chunk) {
    sum += work.key_sums[(std::int64_t{head} * work.chunks + chunk) *
                             work.args.most_blocks * 64 +
                         key];
  }
  return sum;
}

// What a distribution's element adds to the divergence of it from a mean.
__device__ __forceinline__ double DivergenceTerm(double p, double mean) {
  return p > 0 ? p * log(p / mean) : 0;
}

// A thread block for each head: which way it goes.
__global__ void __launch_bounds__(kCutThreads)
    DecideWay(const LastRowsWork work) {
  __shared__ CutScratch scratch;
  __shared__ float queries[128 * kMostGroup];
  __shared__ float log_sums[kMostGroup];
  WaitForDependency();
  LetDependentsStart();
  const int head = blockIdx.x, group = work.group();
  const LastRows rows = RowsOfHead(work, head);
  if (!IsFlex(work, rows)) return;
  const int width = work.args.kv.head_dim, blocks = rows.blocks();
  const int most_blocks = work.args.most_blocks;
  float* const logits =
      work.estimates + std::int64_t{head} * (kMostGroup + 2) * most_blocks;
  float* const pooled = logits + std::int64_t{kMostGroup} * most_blocks;
  float* const seen = pooled + most_blocks;

  for (int i = threadIdx.x; i < width * kMostGroup; i += kCutThreads) {
    const int h = i / width, d = i % width;
    float sum = 0.0f;
    if (h < group) {
#pragma unroll 8
      for (int r = 0; r < rows.rows; ++r) {
        sum +=
            __bfloat162float(QueriesOf(work, rows.first_row + r, head, h)[d]);
      }
      sum /= static_cast<float>(rows.rows);
    }
    queries[d * kMostGroup + h] = sum;
  }
  __syncthreads();
  for (int b = threadIdx.x; b < blocks; b += kCutThreads) {
    float products[kMostGroup];
    MeanProducts(work, head, b, queries, products);
#pragma unroll
    for (int h = 0; h < kMostGroup; ++h) {
      if (h < group) logits[std::int64_t{h} * most_blocks + b] = products[h];
    }
  }
  __syncthreads();
  const int lane = threadIdx.x % 32, h = threadIdx.x / 32;
  if (h < group) {
    PowerSum sum;
    for (int b = lane; b < blocks; b += 32) {
      sum.Join({logits[std::int64_t{h} * most_blocks + b], 1.0f}, work.factor);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      PowerSum other;
      other.maximum = __shfl_down_sync(0xffffffffu, sum.maximum, step);
      other.sum = __shfl_down_sync(0xffffffffu, sum.sum, step);
      sum.Join(other, work.factor);
    }
    if (lane == 0) log_sums[h] = sum.maximum * work.factor + log2f(sum.sum);
  }
  __syncthreads();
  bool is_garbage = false;
  double pooled_total = 0, seen_total = 0;
  for (int b = threadIdx.x; b < blocks; b += kCutThreads) {
    float estimate = 0.0f;
    for (int i = 0; i < group; ++i) {
      estimate +=
          PowerOfTwo(logits[std::int64_t{i} * most_blocks + b] * work.factor -
                     log_sums[i]);
    }
    double sum = 0;
    for (int k = b * 64; k < min(b * 64 + 64, rows.end); ++k) {
      sum += KeySum(work, head, k);
    }
    pooled[b] = estimate;
    seen[b] = static_cast<float>(sum);
    is_garbage = is_garbage || !isfinite(estimate);
    pooled_total += pooled[b];
    seen_total += seen[b];
  }
  is_garbage = __syncthreads_or(is_garbage) != 0;
  pooled_total = CutTotal(pooled_total, scratch);
  seen_total = CutTotal(seen_total, scratch);
  double divergence = 0;
  for (int b = threadIdx.x; b < blocks; b += kCutThreads) {
    const double p = pooled[b] / pooled_total, q = seen[b] / seen_total;
    const double mean = (p + q) / 2;
    divergence += (DivergenceTerm(p, mean) + DivergenceTerm(q, mean)) / 2;
  }
  divergence = CutTotal(divergence, scratch);
  if (threadIdx.x != 0) return;
  const LastRowsRule& rule = work.rules[rows.rule];
  work.is_everything[head * 3 + 2] = is_garbage || rule.mass >= 1.0f;
  // Not if it is no number.
  work.is_query_aware[head] =
      sqrt(divergence < 0 ? 0 : divergence) < rule.divergence;
}

// A thread block for each head and kind: blocks of keys or of distances. A word
// is not 0 if its block is chosen.
__global__ void __launch_bounds__(kCutThreads)
    ChooseBlocks(const LastRowsWork work) {
  __shared__ CutScratch scratch;
  WaitForDependency();
  LetDependentsStart();
  const int head = blockIdx.x / 2, kind = blockIdx.x % 2;
  const LastRows rows = RowsOfHead(work, head);
  if (!IsFlex(work, rows)) return;
  const LastRowsRule& rule = work.rules[rows.rule];
  const std::int64_t array = blockIdx.x * std::int64_t{work.args.most_blocks};
  std::uint32_t* const values = work.values + array * 64;
  const bool is_sound = WriteSums(work, head, kind, rows, values);
  if (threadIdx.x == 0) work.is_everything[head * 3 + kind] = !is_sound;
  if (!is_sound || rule.mass >= 1.0f) return;
  unsigned count = rule.least_blocks;
  if (work.is_query_aware[head] == 0) {
    const auto for_each = [&](const auto& use) {
#pragma unroll 4
      for (int i = threadIdx.x; i < rows.end; i += kCutThreads) use(values[i]);
    };
    double total = 0;
    for_each([&](std::uint32_t sum) { total += __uint_as_float(sum); });
    total = CutTotal(total, scratch);
    MassWeights weights;
    const WeightCut cut =
        FindMass(for_each, rule.mass, total, &weights, scratch);
    unsigned above = 0;
    for_each([&](std::uint32_t sum) { above += sum > cut.threshold; });
    above = static_cast<unsigned>(CutTotal(above, scratch));
    const unsigned tokens = above + EqualsIn(cut, weights(cut.threshold));
    count = max(count, tokens / 64 + 1);
  }
  count = min(count, rows.blocks());
  // Sums of blocks take the place of those of tokens.
  float sum = 0.0f;
  for (int first = 0; first < rows.blocks(); first += kCutThreads) {
    const int b = first + threadIdx.x;
    double of_block = 0;
    for (int i = b * 64; i < min(b * 64 + 64, rows.end); ++i) {
      of_block += __uint_as_float(values[i]);
    }
    sum = static_cast<float>(of_block);
    __syncthreads();
    // Behind what later turns read.
    if (b < rows.blocks()) values[b] = __float_as_uint(sum);
    __syncthreads();
  }
  const int forced = count > 0 ? 1 : 0;
  const auto for_blocks = [&](const auto& use) {
    for (int b = threadIdx.x; b < rows.blocks(); b += kCutThreads) {
      if (b >= forced) use(values[b]);
    }
  };
  SumRange range;
  for_blocks([&](std::uint32_t value) { range.Add(value); });
  range = RangeOfAll(range, scratch);
  const WeightCut cut = FindCut(
      for_blocks, [](std::uint32_t) { return 1u; }, count - forced, range,
      scratch);
  // Bits first, at the end of the values, where tokens' sums are done with.
  const int words = (rows.blocks() + 31) / 32;
  std::uint32_t* const bits = values + rows.blocks();
  WriteChosen(values, forced, rows.blocks(), cut, words, bits, scratch);
  __syncthreads();
  for (int b = threadIdx.x; b < rows.blocks(); b += kCutThreads) {
    work.chosen[array + b] = bits[b / 32] >> b % 32 & 1;
  }
}

// A thread block for neighbouring tiles of a head, whose mean queries are
// kMostGroup rows at most: the softmax over key blocks, summed over heads.
__global__ void __launch_bounds__(kMapThreads)
    ScoreMap(const LastRowsWork work) {
  __shared__ float queries[128 * kMostGroup];
  __shared__ float2 parts[kMapThreads / 32][kMostGroup];
  WaitForDependency();
  LetDependentsStart();
  const BlockSelectionArgs& args = work.args;
  const int group = work.group(), tiles_at_once = kMostGroup / group;
  const int thread_blocks =
      (args.most_blocks + tiles_at_once - 1) / tiles_at_once;
  const int head = blockIdx.x / thread_blocks;
  const LastRows rows = RowsOfHead(work, head);
  if (!IsFlex(work, rows) || work.is_query_aware[head] == 0) return;
  const int slice_number = work.first_slice + head / args.kv.kv_heads;
  const int end_tile = args.first_tiles[slice_number + 1];
  const int first_tile = args.first_tiles[slice_number] +
                         blockIdx.x % thread_blocks * tiles_at_once;
  if (first_tile >= end_tile) return;
  const int tiles = min(tiles_at_once, end_tile - first_tile);
  const int width = args.kv.head_dim;
  for (int i = threadIdx.x; i < width * kMostGroup; i += kMapThreads) {
    const int row = i / width, d = i % width;
    float sum = 0.0f;
    if (row < tiles * group) {
      const int4 tile = TileFields(args, first_tile + row / group);
#pragma unroll 8
      for (int r = 0; r < tile.z; ++r) {
        sum += __bfloat162float(
            QueriesOf(work, std::int64_t{tile.y} + r, head, row % group)[d]);
      }
      sum /= static_cast<float>(tile.z);
    }
    queries[d * kMostGroup + row] = sum;
  }
  // Of each row.
  int own[kMostGroup];
#pragma unroll
  for (int row = 0; row < kMostGroup; ++row) {
    own[row] = row < tiles * group
                   ? BlockOf(TileFields(args, first_tile + row / group))
                   : -1;
  }
  const int last = BlockOf(TileFields(args, first_tile + tiles - 1));
  __syncthreads();
  PowerSum sums[kMostGroup];
  for (int b = threadIdx.x; b <= last; b += kMapThreads) {
    float products[kMostGroup];
    MeanProducts(work, head, b, queries, products);
#pragma unroll
    for (int row = 0; row < kMostGroup; ++row) {
      if (b <= own[row]) sums[row].Join({products[row], 1.0f}, work.factor);
    }
  }
#pragma unroll
  for (int row = 0; row < kMostGroup; ++row) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      PowerSum other;
      other.maximum = __shfl_down_sync(0xffffffffu, sums[row].maximum, step);
      other.sum = __shfl_down_sync(0xffffffffu, sums[row].sum, step);
      sums[row].Join(other, work.factor);
    }
    if (threadIdx.x % 32 == 0) {
      parts[threadIdx.x / 32][row] =
          make_float2(sums[row].maximum, sums[row].sum);
    }
  }
  __syncthreads();
  float log_sums[kMostGroup];
#pragma unroll
  for (int row = 0; row < kMostGroup; ++row) {
    PowerSum sum;
    for (const auto& part : parts) {
      sum.Join({part[row].x, part[row].y}, work.factor);
    }
    log_sums[row] = sum.maximum * work.factor + log2f(sum.sum);
  }
  for (int b = threadIdx.x; b <= last; b += kMapThreads) {
    float products[kMostGroup];
    MeanProducts(work, head, b, queries, products);
    float score = 0.0f;
    int of_tile = 0;  // rows that were added
#pragma unroll
    for (int row = 0; row < kMostGroup; ++row) {
      if (b <= own[row]) {
        score += PowerOfTwo(products[row] * work.factor - log_sums[row]);
      }
      if (++of_tile == group) {
        if (b <= own[row]) work.Map(head, own[row])[b] = score;
        score = 0.0f;
        of_tile = 0;
      }
    }
  }
}

// A thread block for each head: the cut of its map, and the last of the
// elements at the threshold that are in.
__global__ void __launch_bounds__(kCutThreads) CutMap(const LastRowsWork work) {
  __shared__ CutScratch scratch;
  WaitForDependency();
  LetDependentsStart();
  const BlockSelectionArgs& args = work.args;
  const int head = blockIdx.x;
  const LastRows rows = RowsOfHead(work, head);
  if (!IsFlex(work, rows) || work.is_query_aware[head] == 0) return;
  const int slice_number = work.first_slice + head / args.kv.kv_heads;
  const int first_tile = args.first_tiles[slice_number];
  const int tiles = args.first_tiles[slice_number + 1] - first_tile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Tiles are in blocks that follow each other.
  const int first_own = BlockOf(TileFields(args, first_tile));
  const auto for_each = [&](const auto& use) {
    for (int t = warp; t < tiles; t += kCutThreads / 32) {
      const float* scores = work.Map(head, first_own + t);
#pragma unroll 4
      for (int b = lane; b <= first_own + t; b += 32) {
        use(__float_as_uint(scores[b]) & 0x7fffffffu);
      }
    }
  };
  double total = 0;
  for_each([&](std::uint32_t sum) { total += __uint_as_float(sum); });
  total = CutTotal(total, scratch);
  if (!isfinite(total)) {
    if (threadIdx.x == 0) work.is_everything[head * 3 + 2] = 1;
    return;
  }
  MassWeights weights;
  const WeightCut cut =
      FindMass(for_each, work.rules[rows.rule].mass, total, &weights, scratch);
  MapCut map_cut = {cut.threshold, args.most_blocks, args.most_blocks};
  if (cut.at > cut.left) {
    // Tiles and blocks in order, by the first warp.
    if (warp != 0) return;
    unsigned left = EqualsIn(cut, weights(cut.threshold));
    for (int t = 0; t < tiles && left > 0; ++t) {
      const int own = first_own + t;
      for (int first = 0; first <= own && left > 0; first += 32) {
        const int b = first + lane;
        const unsigned ones = __ballot_sync(
            0xffffffffu, b <= own && __float_as_uint(work.Map(head, own)[b]) ==
                                         cut.threshold);
        const unsigned number = __popc(ones);
        if (number >= left) {
          map_cut.last_tile_block = own;
          // The left-th one.
          map_cut.last_block =
              first + static_cast<int>(__fns(ones, 0, static_cast<int>(left)));
        }
        left -= min(left, number);
      }
    }
  }
  if (threadIdx.x == 0) work.map_cuts[head] = map_cut;
}

}  // namespace sparseserve::cuda
