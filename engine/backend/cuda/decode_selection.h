#pragma once

// Chooses KV blocks for sequences that decode, by bounds of their pages' keys,
// on a GPU. Pointers are the device's unless a comment says otherwise. No CUDA
// header is needed here.

#include <cstdint>
#include <memory>

#include "engine/backend/cuda/decode_attention.h"
#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/paged_kv.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// In place of a pair's rule.
inline constexpr std::int32_t kNoRule = -1;      // its list is left alone
inline constexpr std::int32_t kKeepChoice = -2;  // its list gets newer blocks

// The arrays of DecodeLists, to be written. Pair p = sequence * kv_heads +
// kv_head has room for `most_blocks` blocks at own_offset + p * most_blocks.
struct DecodeChoice {
  std::int32_t* block_counts = nullptr;   // [sequences, kv_heads]
  std::int64_t* block_offsets = nullptr;  // [sequences, kv_heads]
  std::int32_t* blocks = nullptr;
  std::int64_t own_offset = 0;
  // Where not 0, in place of most_blocks: at least what a pair's rule visits of
  // a longer sequence. Such lists have no room for Extend().
  std::int32_t room_blocks = 0;
  // [sequences, kv_heads], or null: block_counts of pairs that choose once
  // more, where the others' are left alone.
  std::int32_t* chosen_counts = nullptr;
};

struct DecodeSelectionArgs {
  std::int32_t sequences = 0;
  // As in DecodeAttentionArgs.
  const void* queries = nullptr;
  std::int64_t query_stride = 0;
  std::int32_t heads = 0;
  PagedKv kv;
  const std::int32_t* lengths = nullptr;
  // bf16 [pages, kv_heads, 2, head_dim]: the greatest and the least of each
  // element of a page's keys, of pages that are full. 16-byte aligned.
  const void* key_bounds = nullptr;
  // At least the number of blocks of every sequence: 1 ... kMostBlocks.
  // Launches are as large as this says.
  std::int32_t most_blocks = 0;

  // [sequences, kv_heads, 4], 16-byte aligned: `blocks` of the pair's
  // PageBoundRule (engine/layout/selection_rule.h), or kNoRule or kKeepChoice;
  // its first_blocks; its last_blocks; anything. So a pair may change its rule
  // between replays of a graph.
  const std::int32_t* rules = nullptr;
  DecodeChoice choice;
};

// Runs PageBoundRule for one row of each sequence. A pair's list then ascends
// and ends with its newest block; a choice of all blocks is kAllBlocks. Owns
// room on the device; at most one Run() may be under way at any time: use one
// stream.
class DecodeSelection {
 public:
  static constexpr std::int32_t kMostBlocks = 8192;  // 512K positions

  // For the current device and up to so many pairs of sequence and KV head
  // times blocks of a sequence. An error names what the device lacks.
  static LaunchStatus Create(std::int64_t most_scores,
                             std::unique_ptr<DecodeSelection>* created);
  DecodeSelection(const DecodeSelection&) = delete;
  DecodeSelection& operator=(const DecodeSelection&) = delete;
  ~DecodeSelection();

  // Queues one launch and returns; may be captured in a CUDA graph. An error
  // names the argument that is out of range. The same arguments give the same
  // bits. Sequences of length 0 get empty lists.
  LaunchStatus Run(const DecodeSelectionArgs& args, CUstream_st* stream) const;

  // Queues one launch in which every pair that has a rule, and every one of
  // kKeepChoice, keeps the list that an earlier Run() wrote, and gets the
  // blocks that its sequence has opened since. Reads neither queries nor
  // bounds.
  LaunchStatus Extend(const DecodeSelectionArgs& args,
                      CUstream_st* stream) const;

 private:
  DecodeSelection(float* scores, std::int64_t most_scores)
      : scores_(scores), most_scores_(most_scores) {}

  float* scores_;  // counters behind them
  std::int64_t most_scores_;
};

}  // namespace sparseserve::cuda
