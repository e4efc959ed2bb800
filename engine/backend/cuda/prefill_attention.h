#pragma once

// Attention of many query rows over lists of KV pages, on a GPU. Pointers are
// the device's unless a comment says otherwise. No CUDA header is needed here.

#include <cstdint>
#include <memory>

#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/paged_kv.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// A BlockLayout (engine/layout/block_layout.h) of 64-token blocks that lies on
// the device; the words mean the same. A list may also be empty here.
struct DeviceBlockLists {
  std::int32_t tiles = 0;
  // [tiles, 4]: a QueryTile's slice, first_row, rows, first_position. 16-byte
  // aligned.
  const std::int32_t* tile_fields = nullptr;
  const std::int32_t* list_of = nullptr;  // [tiles, kv_heads]
  const std::int64_t* full_offsets = nullptr;
  const std::int32_t* full_blocks = nullptr;
  const std::int64_t* partial_offsets = nullptr;
  const std::int32_t* partial_blocks = nullptr;
  // [partial_blocks, 64]: for each row of the tile a word whose bit k is key k
  // of the block. Null: causality says what a partial block shows.
  const std::uint64_t* partial_masks = nullptr;
  // [tiles * kv_heads]: in which order tile * kv_heads + kv_head are worked
  // on; long lists first, those of one KV head near each other. Null: KV head
  // by KV head, from the last tile to the first.
  const std::int32_t* order = nullptr;
  // [tiles, kv_heads], or null: BlockLayout's. Partial blocks come first, and
  // none of them is left out.
  const float* skip_below = nullptr;
};

struct PrefillAttentionArgs {
  // Rotated queries in bf16: row r, head h at r * query_stride + h * head_dim
  // elements. The stride is a multiple of 8, the base 16-byte aligned.
  const void* queries = nullptr;
  std::int64_t query_rows = 0;
  std::int64_t query_stride = 0;
  std::int32_t heads = 0;  // a multiple of kv.kv_heads
  PagedKv kv;
  DeviceBlockLists lists;
  float scale = 1.0f;  // multiplies q . k before the softmax; positive
  // bf16, laid out and aligned as the queries are. Rows of no tile stay.
  void* output = nullptr;
  std::int64_t output_stride = 0;
  // [query_rows, heads]: natural log of the row's softmax denominator;
  // -infinity where no key was visible (the output row is then 0). May be null.
  float* lse = nullptr;
  // [tiles, kv_heads], to add to: the listed blocks that rows left out, each
  // counted once for a row and query head. Null: nobody counts.
  std::int32_t* skipped = nullptr;
};

enum class PrefillKernel {
  kPortable,  // compute capability 8.0 and later
  kHopper,    // 9.0
};

// Runs a kernel that is made for the device. Owns a few bytes there, which
// count the work that is handed out, so at most one Run() may be under way at
// any time: use one stream.
class PrefillAttention {
 public:
  // For the current device, its fastest kernel. An error if it is none that a
  // kernel is made for, naming what is needed, or if memory is missing.
  static LaunchStatus Create(std::unique_ptr<PrefillAttention>* created);
  // Likewise, with a kernel of the caller's choice.
  static LaunchStatus Create(PrefillKernel kernel,
                             std::unique_ptr<PrefillAttention>* created);
  PrefillAttention(const PrefillAttention&) = delete;
  PrefillAttention& operator=(const PrefillAttention&) = delete;
  ~PrefillAttention();

  PrefillKernel kernel() const { return kernel_; }

  // Queues one launch and returns. An error names the argument that is out of
  // range. What lists and tables hold is not looked at: REQUIRES that they keep
  // BlockLayout's invariants and name pages below kv.pages.
  LaunchStatus Run(const PrefillAttentionArgs& args, CUstream_st* stream) const;

 private:
  PrefillAttention(PrefillKernel kernel, int multiprocessors,
                   std::int32_t* counters)
      : kernel_(kernel),
        multiprocessors_(multiprocessors),
        counters_(counters) {}

  PrefillKernel kernel_;
  int multiprocessors_;
  std::int32_t* counters_;  // [2], zero whenever no launch is under way
};

}  // namespace sparseserve::cuda
