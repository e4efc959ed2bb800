#include "engine/backend/cpu/pooled_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/backend/cpu/packed_queries.h"
#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// A vector may be read or rewritten up to so many elements behind its end.
constexpr int kSlack = 16;

// Appends the block of `count` rows of `depth` elements.
void AddBlock(const SelectionKernels& kernels, const std::byte* rows,
              DType dtype, int count, int64_t depth,
              std::vector<float>& unit_sum, PooledBlocks& pooled) {
  const size_t first = pooled.means.size();
  pooled.means.resize(first + depth, 0.0f);
  unit_sum.assign(depth, 0.0f);
  float* mean = pooled.means.data() + first;
  kernels.add_rows(rows, dtype, count, depth, mean, unit_sum.data());
  const float share = 1.0f / static_cast<float>(count);
  float square = 0;
  for (int64_t i = 0; i < depth; ++i) {
    mean[i] *= share;
    square += (unit_sum[i] * share) * (unit_sum[i] * share);
  }
  pooled.similarities.push_back(square);
}

void Clear(PooledBlocks& pooled) {
  pooled.means.clear();
  pooled.similarities.clear();
}

}  // namespace

void PoolKeys(const SelectionKernels& kernels, const SelectArgs& args,
              const SliceRows& rows, int32_t kv_head, PoolingScratch& scratch,
              PooledBlocks& pooled) {
  Clear(pooled);
  const StoredKeys keys(args, rows.slice, kv_head);
  const int64_t depth = PaddedDepth(args.kv.head_dim);
  for (int32_t block = 0; block < rows.blocks(); ++block) {
    const int32_t count =
        std::min(kPageTokens, rows.end_position() - block * kPageTokens);
    AddBlock(kernels, keys.Padded(block, count, scratch.keys), args.kv.dtype,
             count, depth, scratch.unit_sum, pooled);
  }
}

void JoinBlocks(int32_t count, int64_t depth, PooledBlocks& pooled) {
  const int64_t joined =
      static_cast<int64_t>(pooled.similarities.size()) / count;
  const float share = 1.0f / static_cast<float>(count);
  for (int64_t block = 0; block < joined; ++block) {
    // Never behind what it is the mean of.
    float* const to = pooled.means.data() + block * depth;
    const float* const from = pooled.means.data() + block * count * depth;
    for (int64_t i = 0; i < depth; ++i) {
      float sum = 0;
      for (int32_t b = 0; b < count; ++b) sum += from[b * depth + i];
      to[i] = sum * share;
    }
  }
  pooled.means.resize(joined * depth);
  pooled.similarities.clear();
}

void PoolQueries(const SelectionKernels& kernels, const SelectArgs& args,
                 const SliceRows& rows, int32_t kv_head,
                 PoolingScratch& scratch) {
  Clear(scratch.queries);
  PackQueries(args, rows, kv_head, 1.0f, scratch.rows);
  const int64_t depth = PaddedDepth(args.kv.head_dim);
  const int32_t heads = args.heads / args.kv.kv_heads;
  for (int32_t h = 0; h < heads; ++h) {
    const float* of_head = scratch.rows.data() + h * rows.rows * depth;
    AddBlock(kernels, reinterpret_cast<const std::byte*>(of_head), DType::kF32,
             rows.rows, depth, scratch.unit_sum, scratch.queries);
  }
}

void PooledScores(const SelectionKernels& kernels, const SelectArgs& args,
                  const PooledBlocks& keys, int32_t blocks,
                  float least_similarity, PoolingScratch& scratch,
                  std::vector<float>& scores) {
  const int32_t heads =
      static_cast<int32_t>(scratch.queries.similarities.size());
  RowProducts rows;
  rows.queries = scratch.queries.means.data();
  rows.query_rows = heads;
  rows.keys = reinterpret_cast<const std::byte*>(keys.means.data());
  rows.key_rows = blocks;
  rows.depth = PaddedDepth(args.kv.head_dim);
  std::vector<float>& products = scratch.products;
  products.resize(heads * blocks + kSlack);
  kernels.multiply(rows, blocks, products.data());
  for (float& product : products) product *= args.scale;
  if (args.softcap > 0) {
    kernels.soft_cap(args.softcap, heads * blocks, products.data());
  }
  bool scores_any = false;
  for (int32_t b = 0; b < blocks; ++b) {
    // Said so that NaN is scored.
    const bool is_left_out = keys.similarities[b] < least_similarity;
    scores_any |= !is_left_out;
    for (int32_t h = 0; is_left_out && h < heads; ++h) {
      products[h * blocks + b] = -std::numeric_limits<float>::infinity();
    }
  }
  scores.assign(blocks + kSlack, 0.0f);
  scratch.unused.assign(blocks + kSlack, 0.0f);
  for (int32_t h = 0; scores_any && h < heads; ++h) {
    const float* of_head = products.data() + h * blocks;
    float maximum = 0;
    float sum = 0;
    kernels.summarise(of_head, blocks, maximum, sum);
    kernels.add_weights(of_head, blocks, maximum + std::log(sum), scores.data(),
                        scratch.unused.data());
  }
  scores.resize(blocks);
}

}  // namespace sparseserve::cpu
