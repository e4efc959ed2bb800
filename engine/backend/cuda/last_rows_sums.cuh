#pragma once

// The softmax of a slice's last rows, summed by key and by distance: two passes
// over the keys, the rows' sums of exponentials and then their weights.
//
// Work split: a thread block has a chunk of the query heads of a KV head, with
// all of their rows, and a run of key blocks; warp w takes rows 16 (w % 4) on
// and keys 32 (w / 4) on of each block, all heads of the chunk. Heads that a
// chunk lacks are zeros that weigh nothing: without branches products follow
// each other closely.
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

template <int kWidth, int kHeads>
class KeySweep {
 public:
  __device__ __forceinline__ KeySweep(const LastRowsWork& work, char* memory)
      : work_(work),
        queries_(AddressOf(memory)),
        keys_(queries_ + kHeads * 64 * kWidth * 2),
        weights_(
            reinterpret_cast<float*>(memory + (kHeads + 2) * 64 * kWidth * 2)) {
    int index = blockIdx.x;
    split = index % work.splits;
    index /= work.splits;
    chunk = index % work.chunks;
    head = index / work.chunks;
    rows = RowsOfHead(work, head);
    heads = min(kHeads, work.group() - chunk * kHeads);
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
         chunk * kHeads) *
            kWidth;
#pragma unroll 4
    for (int i = threadIdx.x; i < kHeads * 64 * kChunks; i += kSweepThreads) {
      const int row = i / kChunks, part = i % kChunks;
      const bool exists = row % 64 < rows.rows && row / 64 < heads;
      const std::int64_t at =
          exists ? (rows.first_row + row % 64) * work_.args.query_stride : 0;
      CopyChunk(ChunkAt(queries_, row, part),
                from + (exists ? at + row / 64 * kWidth + part * 8 : 0),
                exists);
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
      int block, float (&products)[kHeads][16]) const {
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
      for (int h = 0; h < kHeads; ++h) {
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
  std::uint32_t queries_;  // [kHeads, 64, kWidth]
  std::uint32_t keys_;     // [2, 64, kWidth]
  float* weights_;         // [64 * 64]
};

// Calls use(block, products) for the run's blocks one by one, after a barrier.
template <int kWidth, int kHeads, class Use>
__device__ __forceinline__ void ForBlocks(const KeySweep<kWidth, kHeads>& sweep,
                                          const Use& use) {
  int page = sweep.PageOf(sweep.begin + 1);
  for (int block = sweep.begin; block < sweep.end; ++block) {
    WaitForCopies<0>();
    __syncthreads();
    sweep.CopyKeys(block + 1, page);
    page = sweep.PageOf(block + 2);
    float products[kHeads][16];
    sweep.Multiply(block, products);
    use(block, products);
  }
}

template <int kWidth, int kHeads>
__global__ void __launch_bounds__(kSweepThreads, 2)
    SumExponentials(const LastRowsWork work) {
  extern __shared__ uint4 memory[];
  WaitForDependency();
  LetDependentsStart();
  const KeySweep<kWidth, kHeads> sweep(work, reinterpret_cast<char*>(memory));
  if (!sweep.IsAsked()) return;
  sweep.CopyQueries();
  sweep.CopyKeys(sweep.begin, sweep.PageOf(sweep.begin));
  PowerSum sums[kHeads][2];
  ForBlocks(sweep, [&](int, const float(&products)[kHeads][16]) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
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
  for (int h = 0; h < kHeads; ++h) {
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
        halves[(threadIdx.x / 128 * kHeads + h) * 64 + sweep.Row() + row * 8] =
            make_float2(sum.maximum, sum.sum);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x >= kHeads * 64) return;
  PowerSum joined = {halves[threadIdx.x].x, halves[threadIdx.x].y};
  const float2 other = halves[kHeads * 64 + threadIdx.x];
  joined.Join({other.x, other.y}, work.factor);
  work.row_parts[std::int64_t{blockIdx.x} * kHeads * 64 + threadIdx.x] =
      make_float2(joined.maximum, joined.sum);
}

// Log to the base 2 of a row's denominator, of row threadIdx.x % 64 of head
// threadIdx.x / 64 of the chunk. Infinite where there is no row.
template <int kWidth, int kHeads>
__device__ __forceinline__ float LogSum(const LastRowsWork& work,
                                        const KeySweep<kWidth, kHeads>& sweep) {
  const int each = BlocksOfSplit(work, sweep.rows.blocks());
  const int splits = (sweep.rows.blocks() + each - 1) / each;
  const float2* parts = work.row_parts +
                        (std::int64_t{sweep.head} * work.chunks + sweep.chunk) *
                            work.splits * kHeads * 64 +
                        threadIdx.x;
  PowerSum sum;
#pragma unroll 8
  for (int split = 0; split < splits; ++split) {
    const float2 part = parts[split * kHeads * 64];
    sum.Join({part.x, part.y}, work.factor);
  }
  const int row = threadIdx.x % 64, head = threadIdx.x / 64;
  return row < sweep.rows.rows && head < sweep.heads
             ? sum.maximum * work.factor + log2f(sum.sum)
             : INFINITY;
}

template <int kWidth, int kHeads>
__global__ void __launch_bounds__(kSweepThreads, 2)
    SumWeights(const LastRowsWork work) {
  extern __shared__ uint4 memory[];
  const KeySweep<kWidth, kHeads> sweep(work, reinterpret_cast<char*>(memory));
  // The launch ahead let this one start when all before it were done, so only
  // what it writes itself has to be waited for.
  if (sweep.IsAsked()) {
    sweep.CopyQueries();
    sweep.CopyKeys(sweep.begin, sweep.PageOf(sweep.begin));
  }
  WaitForDependency();
  LetDependentsStart();
  if (!sweep.IsAsked()) return;
  float* const weights = sweep.weights();
  if (threadIdx.x < kHeads * 64) weights[threadIdx.x] = LogSum(work, sweep);
  __syncthreads();
  float log_sums[kHeads][2];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
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
  // Keys are exchanged by eights so that rows that are stored together, and
  // those that are added together, do not meet in a bank.
  const auto at = [](int row, int key) {
    return row * 64 + (key ^ row % 4 * 8);
  };
  ForBlocks(sweep, [&](int block, const float(&products)[kHeads][16]) {
    float sums[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      sums[i] = 0.0f;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
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
    // Of a warp, lanes 0 ... 15 add rows 4 n and 4 n + 1 of 16 columns or
    // diagonals, the others rows 4 n + 2 and 4 n + 3 of the same.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = warp % 4 * 16 + lane % 16, second_rows = lane / 16 * 2;
    if (warp < 4) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        sum += weights[at(i / 2 * 4 + second_rows + i % 2, first)];
      }
      sum += __shfl_xor_sync(0xffffffffu, sum, 16);
      if (lane < 16) key_sums[block * 64 + first] = sum;
    } else {
      // Diagonal `first` has rows up to it, diagonal first + 64 the others.
      float sum = 0.0f, longer = 0.0f;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int row = i / 2 * 4 + second_rows + i % 2;
        const float weight = weights[at(row, (row + 63 - first) & 63)];
        (row <= first ? sum : longer) += weight;
      }
      sum += __shfl_xor_sync(0xffffffffu, sum, 16);
      longer += __shfl_xor_sync(0xffffffffu, longer, 16);
      if (lane < 16) {
        distance_parts[block * 128 + first] = sum;
        distance_parts[block * 128 + first + 64] = longer;
      }
    }
  });
}

}  // namespace sparseserve::cuda
