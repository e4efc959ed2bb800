#pragma once

// Rotary position embedding of queries and keys, and the way of keys and values
// into pages, on a GPU: what Backend::RopeAndStore does. Pointers are the
// device's unless a comment says otherwise. No CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Which two elements of a head turn together, for i < head_dim / 2.
enum class RotatedPairs {
  kAdjacent,  // 2 i and 2 i + 1
  kHalves,    // i and i + head_dim / 2
};

// One layer's keys and values as they are written; attention reads the same
// memory as PagedKv. All 16-byte aligned.
struct KvPages {
  void* keys = nullptr;    // bf16 [pages, kv_heads, 64, head_dim]
  void* values = nullptr;  // likewise
  std::int32_t pages = 0;
  std::int32_t kv_heads = 0;
  std::int32_t head_dim = 0;  // a multiple of 16, 32 to 256
  // bf16 [pages, kv_heads, 2, head_dim]: the greatest and the least of each
  // element of a page's keys, for pages whose last key is stored. Null: they
  // are not kept.
  void* key_bounds = nullptr;
  // f32 [pages, kv_heads, head_dim]: the mean of a page's keys, likewise.
  float* mean_keys = nullptr;
};

struct RopeRowsArgs {
  std::int32_t rows = 0;
  // bf16 rows of queries, keys and values, (heads + 2 * kv_heads) * head_dim
  // wide; 16-byte aligned, the stride a multiple of 8 elements. In this order,
  // each step only where it is asked for, in f32: the bias is added, every
  // query and key head normed, and rotated. Queries end in place.
  void* qkv = nullptr;
  std::int64_t qkv_stride = 0;
  std::int32_t heads = 0;       // a multiple of kv.kv_heads
  const float* bias = nullptr;  // [width of a row], 16-byte aligned; or null
  // [head_dim], 16-byte aligned: gains of RmsNorm; null: no norm.
  const float* query_gain = nullptr;
  const float* key_gain = nullptr;
  float norm_epsilon = 0.0f;
  // [rows]; 0 to the tables' last row. Null if nothing is rotated.
  const std::int32_t* positions = nullptr;
  // [rows]: where each row's key and value go, page * 64 + offset; negative:
  // the row is padding, of which nothing is read or written. Rows of one page
  // are neighbours, in order of their slots.
  const std::int64_t* kv_slots = nullptr;
  // No page is the place of two rows, as when each sequence has one: pages that
  // are now full are then summed up in the same launch, else in a second one.
  bool pages_have_one_row = false;
  RotatedPairs pairs = RotatedPairs::kAdjacent;
  // [positions, head_dim / 2], 16-byte aligned; null: no rotation.
  const float* cosines = nullptr;
  const float* sines = nullptr;
  KvPages kv;
};

// Queues one launch, or two where bounds or means are kept and pages may have
// several rows, and returns; may be captured in a CUDA graph. An error names
// the argument that is out of range. What arrays on the device hold is not
// looked at: REQUIRES positions and slots as their comments say.
//
// Where slot 0 of a page is among the rows, values of that page behind the last
// of them become 0: attention multiplies them by weights of 0. Bounds and means
// are those of the stored keys, of every page whose last slot is among the
// rows; sums of means are f32, in one order.
LaunchStatus LaunchRopeAndStore(const RopeRowsArgs& args, CUstream_st* stream);

}  // namespace sparseserve::cuda
