#pragma once

// From the product of queries, keys and values to rotated queries and pages, on
// a GPU. No CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// All memory is the device's, 16-byte aligned. What is done, and in which
// order, says RopeAndStoreArgs of engine/backend/backend.h.
struct RopeAndStoreRows {
  std::int32_t rows = 0;
  std::int32_t heads = 0;
  std::int32_t kv_heads = 0;
  std::int32_t head_dim = 0;  // 64 or 128
  // bf16 [rows, (heads + 2 * kv_heads) * head_dim]; queries end in place.
  void* qkv = nullptr;
  const float* bias = nullptr;        // [columns of qkv]; null: none
  const float* query_gain = nullptr;  // [head_dim]; null: no norm
  const float* key_gain = nullptr;    // likewise
  float norm_epsilon = 0.0f;
  const std::int32_t* positions = nullptr;  // [rows]
  // [rows]: page * 64 + offset in the page, no two alike.
  const std::int64_t* kv_slots = nullptr;
  // Whether elements 2 i and 2 i + 1 turn together, else i and i + head_dim
  // / 2.
  bool turns_adjacent = false;
  const float* cosines = nullptr;  // [positions, head_dim / 2]; null: no turn
  const float* sines = nullptr;
  void* keys = nullptr;  // bf16 [pages, kv_heads, 64, head_dim]
  // Likewise. Who stores a page's first value clears those behind the last one
  // that this launch stores there: the page may have held anything.
  void* values = nullptr;
};

LaunchStatus LaunchRopeAndStore(const RopeAndStoreRows& args,
                                CUstream_st* stream);

}  // namespace sparseserve::cuda
