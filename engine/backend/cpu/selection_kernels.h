#pragma once

// The arithmetic of selection rules.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/cpu/simd_level.h"
#include "engine/tensor/dtype.h"

namespace sparseserve::cpu {

// Left and right operand of products: rows of `depth` elements, one after the
// other. REQUIRES: depth is a multiple of 16.
struct RowProducts {
  const float* queries = nullptr;  // [query_rows, depth]
  int query_rows = 0;
  const std::byte* keys = nullptr;  // [key_rows, depth] of `dtype`
  DType dtype = DType::kF32;        // kF32 or kBF16
  int key_rows = 0;
  int64_t depth = 0;
};

// A row of a tile of AMX.
struct alignas(64) TileLine {
  std::byte bytes[64];
};

// Query rows whose weights of keys are summarised.
struct SummaryRows {
  int rows = 0;
  int64_t depth = 0;  // a multiple of 16
  float factor = 1;   // from a product to a score
  float softcap = 0;  // of scores, or 0
  DType key_dtype = DType::kF32;
  std::vector<float> queries;  // [rows, depth]
  // What a path multiplies in their place, if it packs them so; else empty.
  std::vector<TileLine> packed;
};

// Blocks of keys: keys[b] points to [key_rows, depth] of key_dtype. REQUIRES:
// key_rows divides 64.
struct SummaryBlocks {
  const std::byte* const* keys = nullptr;
  int blocks = 0;
  int key_rows = 0;
  // [rows]: how many keys of the last block each row sees, at least one; null
  // if all rows see all of it. Blocks before it are seen whole.
  const int32_t* seen = nullptr;
};

// Where results go: those of row r and block b at r * stride + b.
struct Summaries {
  float* maxima = nullptr;  // of a row's scores in a block
  float* sums = nullptr;    // of exp(score - maximum)
  int64_t stride = 0;
};

struct SelectionKernels {
  // Makes of rows.queries, as they are, what summarise_blocks() multiplies.
  void (*pack_rows)(SummaryRows& rows);
  // `products` is room that grows as needed. An element does not depend on what
  // other rows and blocks there are.
  void (*summarise_blocks)(const SummaryRows& rows, const SummaryBlocks& blocks,
                           std::vector<float>& products,
                           const Summaries& summaries);
  // products[q * stride + k] = queries[q, :] . keys[k, :]. An element's
  // rounding does not depend on its neighbours.
  void (*multiply)(const RowProducts& rows, int stride, float* products);
  // values[i] = cap * tanh(values[i] / cap), for whole vectors: up to 15
  // elements behind the last are rewritten too.
  void (*soft_cap)(float cap, int count, float* values);
  // maximum = max_i values[i], sum = sum_i exp(values[i] - maximum). Up to 15
  // elements behind the last are read, and not used. REQUIRES: count >= 1.
  void (*summarise)(const float* values, int count, float& maximum, float& sum);
  // Parts of one softmax, each known by its maximum and the sum of its
  // exponentials: shares[i] += the weight of part i. Replaces `sums`. Up to
  // 15 elements behind the last are read, and rewritten where they are not
  // `maxima`.
  void (*add_shares)(const float* maxima, int64_t count, float* sums,
                     float* shares);
  // w = exp(scores[i] - lse), added to columns[i] and to diagonals[i]. Up to 15
  // elements behind the last are read, and of the sums rewritten as they are.
  void (*add_weights)(const float* scores, int count, float lse, float* columns,
                      float* diagonals);
  // Adds `count` rows of `depth` elements, one after the other, to `sum`, and
  // what each becomes when it is divided by its length to `unit_sum`; a row of
  // zeros is left out there. REQUIRES: depth is a multiple of 16; dtype is kF32
  // or kBF16.
  void (*add_rows)(const std::byte* rows, DType dtype, int count, int64_t depth,
                   float* sum, float* unit_sum);
  // greatest[i] and least[i] become those of element i of `count` rows of
  // `depth` elements, one after the other; no number if one of them is none or
  // infinite. REQUIRES: depth is a multiple of 8; dtype is kF32 or kBF16.
  void (*bound_rows)(const std::byte* rows, DType dtype, int count,
                     int64_t depth, float* greatest, float* least);
};

// The best path up to `level`.
const SelectionKernels& SelectionKernelsFor(SimdLevel level);

}  // namespace sparseserve::cpu
