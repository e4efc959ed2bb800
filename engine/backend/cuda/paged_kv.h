#pragma once

#include <cstdint>

namespace sparseserve::cuda {

// One layer's keys and values, each [pages, kv_heads, 64, head_dim] in bf16,
// and which pages each slice has. A slice's newest page may hold anything
// finite behind its last value; what is behind its last key is never looked at.
struct PagedKv {
  const void* keys = nullptr;
  const void* values = nullptr;
  std::int32_t pages = 0;
  std::int32_t kv_heads = 0;
  std::int32_t head_dim = 0;  // 64 or 128
  // [slices, page_table_stride]: page of each block of 64 positions.
  const std::int32_t* page_tables = nullptr;
  std::int64_t page_table_stride = 0;
};

}  // namespace sparseserve::cuda
