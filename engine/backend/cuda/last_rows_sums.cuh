#pragma once

// The softmax of a slice's last rows, summed by key and by distance: two passes
// over the keys, the rows' sums of exponentials and then their weights.
//
// Work split: a thread block has a chunk of the query heads of a KV head, with
// all of their rows, and a run of key blocks; warp w takes rows 16 (w % 4) on
// and keys 32 (w / 4) on of each block, all heads of the chunk.
// Memory traffic: keys are read twice for each chunk; what is left is 3 floats
// for each key and chunk.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/last_rows_work.cuh"
#include "engine/backend/cuda/mma_sync.cuh"
#include "engine/backend/cuda/power_sum.cuh"

namespace sparseserve::cuda {

constexpr int kSweepThreads = 256;

__host__ __device__ constexpr int SweepBytes(int width, int chunk_heads) {
  return (chunk_heads + 2) * 64 * width * 2 + 64 * 64 * 4;
}

template <int kWidth>
class KeySweep {
 public:
  __device__ __forceinline__ KeySweep(const LastRowsWork& work, char* memory)
      : work_(work),
        queries_(AddressOf(memory)),
        keys_(queries_ + work.chunk_heads * 64 * kWidth * 2),
        weights_(reinterpret_cast<float*>(memory + (work.chunk_heads + 2) * 64 *
                                                       kWidth * 2)) {
    int index = blockIdx.x;
    split = index % work.splits;
    index /= work.splits;
    chunk = index % work.chunks;
    head = index / work.chunks;
    rows = RowsOfHead(work, head);
    heads = min(work.chunk_heads, work.group() - chunk * work.chunk_heads);
    const int each = BlocksOfSplit(work, rows.blocks());
    begin = split * each;
    end = min(begin + each, rows.blocks());
  }

  __device__ __forceinline__ bool IsAsked() const {
    return rows.rule >= 0 && begin < end;
  }
  __device__ __forceinline__ float* weights() const { return weights_; }
  // This lane's first row, the other is 8 behind; and its first key of a block.
  __device__ __forceinline__ static int Row() {
    return threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
  }
  __device__ __forceinline__ static int Key() {
    return threadIdx.x / 128 * 32 + threadIdx.x % 4 * 2;
  }

  __device__ __forceinline__ void CopyQueries() const {
    const auto* from =
        static_cast<const __nv_bfloat16*>(work_.args.queries) +
        (std::int64_t{head % work_.args.kv.kv_heads} * work_.group() +
         chunk * work_.chunk_heads) *
            kWidth;
    for (int i = threadIdx.x; i < heads * 64 * kChunks; i += kSweepThreads) {
      const int row = i / kChunks, part = i % kChunks;
      const bool exists = row % 64 < rows.rows;
      const std::int64_t at =
          exists ? (rows.first_row + row % 64) * work_.args.query_stride : 0;
      CopyChunk(ChunkAt(queries_, row, part),
                from + at + row / 64 * kWidth + part * 8, exists);
    }
  }
  __device__ __forceinline__ int PageOf(int block) const {
    return block < end
               ? __ldg(work_.args.kv.page_tables +
                       rows.slice * work_.args.kv.page_table_stride + block)
               : 0;
  }
  __device__ __forceinline__ void CopyKeys(int block, int page) const {
    if (block < end) {
      const PagedKv& kv = work_.args.kv;
      const auto* from =
          static_cast<const __nv_bfloat16*>(kv.keys) +
          (std::int64_t{page} * kv.kv_heads + head % kv.kv_heads) * 64 * kWidth;
#pragma unroll
      for (int i = 0; i < 64 * kChunks / kSweepThreads; ++i) {
        const int at = i * kSweepThreads + threadIdx.x;
        const int row = at / kChunks, part = at % kChunks;
        // Behind the last key may be anything.
        CopyChunk(ChunkAt(Stage(block), row, part), from + at * 8,
                  block * 64 + row < rows.end);
      }
    }
    CommitCopies();
  }

  // This lane's products: of n8 tile i / 4 of its keys, row i % 4 / 2, key
  // i % 2. -infinity where the row does not see the key.
  __device__ __forceinline__ void Multiply(
      int block, float (&products)[kMostChunkHeads][16]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (auto& of_head : products) {
#pragma unroll
      for (float& product : of_head) product = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kWidth / 16; ++step) {
      std::uint32_t right[2][4];
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        LoadMatrices(
            ChunkAt(Stage(block),
                    warp / 4 * 32 + pair * 16 + lane / 16 * 8 + lane % 8,
                    step * 2 + lane / 8 % 2),
            right[pair]);
      }
#pragma unroll
      for (int h = 0; h < kMostChunkHeads; ++h) {
        if (h >= heads) break;
        std::uint32_t left[4];
        LoadMatrices(ChunkAt(queries_, h * 64 + warp % 4 * 16 + lane % 16,
                             step * 2 + lane / 16),
                     left);
#pragma unroll
        for (int tile = 0; tile < 4; ++tile) {
          cuda::Multiply(products[h] + tile * 4, left,
                         right[tile / 2][tile % 2 * 2],
                         right[tile / 2][tile % 2 * 2 + 1]);
        }
      }
    }
    if (block * 64 + 63 <= rows.first_position) return;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int key = block * 64 + Key() + i / 4 * 8 + i % 2;
      const int position = rows.first_position + Row() + i % 4 / 2 * 8;
      if (key <= position && key < rows.end) continue;
#pragma unroll
      for (auto& of_head : products) of_head[i] = -INFINITY;
    }
  }

  int split, chunk, head, heads, begin, end;
  LastRows rows;

 private:
  static constexpr int kChunks = kWidth / 8;  // of 16 bytes, of a row

  __device__ __forceinline__ static std::uint32_t AddressOf(const void* at) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(at));
  }
  __device__ __forceinline__ static std::uint32_t ChunkAt(std::uint32_t base,
                                                          int row, int part) {
    return base + row * (kWidth * 2) + (part ^ row % 8) * 16;
  }
  __device__ __forceinline__ std::uint32_t Stage(int block) const {
    return keys_ + block % 2 * (64 * kWidth * 2);
  }

  const LastRowsWork& work_;
  std::uint32_t queries_;  // [chunk_heads, 64, kWidth]
  std::uint32_t keys_;     // [2, 64, kWidth]
  float* weights_;         // [64 * 64]
};

// Calls use(block, products) for the run's blocks one by one, after a barrier.
template <int kWidth, class Use>
__device__ __forceinline__ void ForBlocks(const KeySweep<kWidth>& sweep,
                                          const Use& use) {
  int page = sweep.PageOf(sweep.begin + 1);
  for (int block = sweep.begin; block < sweep.end; ++block) {
    WaitForCopies<0>();
    __syncthreads();
    sweep.CopyKeys(block + 1, page);
    page = sweep.PageOf(block + 2);
    float products[kMostChunkHeads][16];
    sweep.Multiply(block, products);
    use(block, products);
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kSweepThreads, 2)
    SumExponentials(const LastRowsWork work) {
  extern __shared__ uint4 memory[];
  WaitForDependency();
  LetDependentsStart();
  const KeySweep<kWidth> sweep(work, reinterpret_cast<char*>(memory));
  if (!sweep.IsAsked()) return;
  sweep.CopyQueries();
  sweep.CopyKeys(sweep.begin, sweep.PageOf(sweep.begin));
  PowerSum sums[kMostChunkHeads][2];
  ForBlocks(sweep, [&](int, const float(&products)[kMostChunkHeads][16]) {
#pragma unroll
    for (int h = 0; h < kMostChunkHeads; ++h) {
      if (h >= sweep.heads) break;
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        PowerSum& sum = sums[h][row];
        float greater = sum.maximum;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          greater = fmaxf(greater, products[h][i / 2 * 4 + row * 2 + i % 2]);
        }
        const float reference = PowerSum::Reference(greater, work.factor);
        float added = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          added += PowerOfTwo(products[h][i / 2 * 4 + row * 2 + i % 2] *
                                  work.factor -
                              reference);
        }
        sum.sum =
            sum.sum * PowerOfTwo(sum.maximum * work.factor - reference) + added;
        sum.maximum = greater;
      }
    }
  });

  // Lanes of a row, then the two halves of the keys.
  auto* const halves = reinterpret_cast<float2*>(sweep.weights());
#pragma unroll
  for (int h = 0; h < kMostChunkHeads; ++h) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      PowerSum& sum = sums[h][row];
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        PowerSum other;
        other.maximum = __shfl_xor_sync(0xffffffffu, sum.maximum, step);
        other.sum = __shfl_xor_sync(0xffffffffu, sum.sum, step);
        sum.Join(other, work.factor);
      }
      if (threadIdx.x % 4 == 0) {
        halves[(threadIdx.x / 128 * kMostChunkHeads + h) * 64 + sweep.Row() +
               row * 8] = make_float2(sum.maximum, sum.sum);
      }
    }
  }
  __syncthreads();
  PowerSum joined = {halves[threadIdx.x].x, halves[threadIdx.x].y};
  const float2 other = halves[kMostChunkHeads * 64 + threadIdx.x];
  joined.Join({other.x, other.y}, work.factor);
  work.row_parts[std::int64_t{blockIdx.x} * kMostChunkHeads * 64 +
                 threadIdx.x] = make_float2(joined.maximum, joined.sum);
}

// Log to the base 2 of a row's denominator, of row threadIdx.x % 64 of head
// threadIdx.x / 64 of the chunk. Infinite where there is no row.
__device__ __forceinline__ float LogSum(const LastRowsWork& work, int head,
                                        int chunk, const LastRows& rows) {
  const int each = BlocksOfSplit(work, rows.blocks());
  const int splits = (rows.blocks() + each - 1) / each;
  const float2* parts =
      work.row_parts + (std::int64_t{head} * work.chunks + chunk) *
                           work.splits * kMostChunkHeads * 64;
  PowerSum sum;
#pragma unroll 8
  for (int split = 0; split < splits; ++split) {
    const float2 part = parts[split * kMostChunkHeads * 64 + threadIdx.x];
    sum.Join({part.x, part.y}, work.factor);
  }
  return static_cast<int>(threadIdx.x % 64) < rows.rows
             ? sum.maximum * work.factor + log2f(sum.sum)
             : INFINITY;
}

template <int kWidth>
__global__ void __launch_bounds__(kSweepThreads, 2)
    SumWeights(const LastRowsWork work) {
  extern __shared__ uint4 memory[];
  WaitForDependency();
  LetDependentsStart();
  const KeySweep<kWidth> sweep(work, reinterpret_cast<char*>(memory));
  if (!sweep.IsAsked()) return;
  sweep.CopyQueries();
  sweep.CopyKeys(sweep.begin, sweep.PageOf(sweep.begin));
  float* const weights = sweep.weights();
  weights[threadIdx.x] = LogSum(work, sweep.head, sweep.chunk, sweep.rows);
  __syncthreads();
  float log_sums[kMostChunkHeads][2];
#pragma unroll
  for (int h = 0; h < kMostChunkHeads; ++h) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      log_sums[h][row] = weights[h * 64 + sweep.Row() + row * 8];
    }
  }
  const std::int64_t chunk =
      std::int64_t{sweep.head} * work.chunks + sweep.chunk;
  float* const key_sums = work.key_sums + chunk * work.args.most_blocks * 64;
  float* const distance_parts =
      work.distance_parts + chunk * work.args.most_blocks * 128;
  // Keys are exchanged by eights so that neither rows nor diagonals meet in a
  // bank.
  const auto at = [](int row, int key) {
    return row * 64 + (key ^ row % 4 * 8);
  };
  ForBlocks(sweep, [&](int block, const float(&products)[kMostChunkHeads][16]) {
    float sums[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      sums[i] =
          PowerOfTwo(products[0][i] * work.factor - log_sums[0][i % 4 / 2]);
    }
#pragma unroll
    for (int h = 1; h < kMostChunkHeads; ++h) {
      if (h >= sweep.heads) break;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        sums[i] +=
            PowerOfTwo(products[h][i] * work.factor - log_sums[h][i % 4 / 2]);
      }
    }
#pragma unroll
    for (int i = 0; i < 16; i += 2) {
      const int row = sweep.Row() + i % 4 / 2 * 8;
      *reinterpret_cast<float2*>(weights + at(row, sweep.Key() + i / 4 * 8)) =
          make_float2(sums[i], sums[i + 1]);
    }
    __syncthreads();
    const int thread = threadIdx.x;
    if (thread < 64) {
      float sum = 0.0f;
#pragma unroll 16
      for (int row = 0; row < 64; ++row) sum += weights[at(row, thread)];
      key_sums[block * 64 + thread] = sum;
    } else if (thread < 64 + 128) {
      const int diagonal = thread - 64;
      float sum = 0.0f;
#pragma unroll 16
      for (int row = 0; row < 64; ++row) {
        const int key = row - diagonal + 63;
        if (key >= 0 && key < 64) sum += weights[at(row, key)];
      }
      distance_parts[block * 128 + diagonal] = sum;
    }
  });
}

}  // namespace sparseserve::cuda
