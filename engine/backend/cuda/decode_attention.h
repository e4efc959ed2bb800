#pragma once

// Attention of one query row for each sequence over lists of KV pages, on a
// GPU. Pointers are the device's unless a comment says otherwise. No CUDA
// header is needed here.

#include <cstdint>
#include <memory>

#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/paged_kv.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// In place of a list's length: every block of the sequence.
inline constexpr std::int32_t kAllBlocks = -1;

// Blocks of 64 positions that each sequence's row visits, each KV head's own,
// in any order, none twice. What the arrays hold may change between launches,
// also between those of one CUDA graph. All lists together: below 2^31 blocks.
struct DecodeLists {
  // [sequences, kv_heads]: how many blocks; 0 or more, or kAllBlocks, which
  // reads no list.
  const std::int32_t* block_counts = nullptr;
  // [sequences, kv_heads]: where in `blocks` the list begins. Lists may share.
  const std::int64_t* block_offsets = nullptr;
  const std::int32_t* blocks = nullptr;
};

struct DecodeAttentionArgs {
  std::int32_t sequences = 0;
  // Rotated queries in bf16: sequence s, head h at s * query_stride +
  // h * head_dim elements. The stride is a multiple of 8, the base 16-byte
  // aligned.
  const void* queries = nullptr;
  std::int64_t query_stride = 0;
  std::int32_t heads = 0;  // a multiple of kv.kv_heads, up to 16 times it
  // Slices are the sequences. Keys and values behind a sequence's end may be
  // anything.
  PagedKv kv;
  // [sequences]: keys of each, its own row's with them. 0: there is no such
  // sequence; what it lists is not looked at.
  const std::int32_t* lengths = nullptr;
  DecodeLists lists;
  float scale = 1.0f;  // multiplies q . k before the softmax; positive
  // bf16, laid out and aligned as the queries are.
  void* output = nullptr;
  std::int64_t output_stride = 0;
  // [sequences, heads]: natural log of the softmax denominator; -infinity where
  // no key was visible (the output is then 0). May be null.
  float* lse = nullptr;
};

// Runs the kernel, on compute capability 8.0 and later. Owns room on the device
// for parts of results, whose size does not depend on what is run, and counters
// of those that are done. So at most one Run() may be under way at any time:
// use one stream.
class DecodeAttention {
 public:
  // For the current device, as many thread blocks as it runs at once. An error
  // names what the device lacks.
  static LaunchStatus Create(std::unique_ptr<DecodeAttention>* created);
  // Likewise with a number of thread blocks of the caller's choice, to whom all
  // listed blocks are dealt out evenly: 1 or more.
  static LaunchStatus Create(std::int32_t thread_blocks,
                             std::unique_ptr<DecodeAttention>* created);
  DecodeAttention(const DecodeAttention&) = delete;
  DecodeAttention& operator=(const DecodeAttention&) = delete;
  ~DecodeAttention();

  // Queues one launch and returns; may be captured in a CUDA graph. An error
  // names the argument that is out of range. What arrays on the device hold is
  // not looked at: REQUIRES lists and tables as their comments say, naming
  // pages below kv.pages. The same arguments give the same bits.
  LaunchStatus Run(const DecodeAttentionArgs& args, CUstream_st* stream) const;

 private:
  // By head_dim: 64, 128.
  struct ThreadBlocks {
    std::int32_t of[2];
  };
  DecodeAttention(bool long_ring, ThreadBlocks thread_blocks)
      : long_ring_(long_ring), thread_blocks_(thread_blocks) {}
  static LaunchStatus Create(bool long_ring, ThreadBlocks thread_blocks,
                             std::unique_ptr<DecodeAttention>* created);

  bool long_ring_;  // whether a thread block may have all that it would like
  ThreadBlocks thread_blocks_;
  void* workspace_ = nullptr;  // DecodeWorkspace's arrays, one allocation
};

}  // namespace sparseserve::cuda
