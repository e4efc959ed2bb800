#pragma once

// A batch of sequences that decode: paged keys and values and lists in host
// memory, what attention should give, and the same batch on a device.

#include <cstdint>
#include <random>
#include <vector>

#include "engine/backend/cuda/decode_attention.h"
#include "tests/engine/backend/cuda/attention_batch.h"
#include "tests/engine/backend/cuda/device_array.h"

namespace sparseserve::cuda {

struct DecodeShape {
  int head_dim = 64;
  int kv_heads = 2;
  int group = 1;             // query heads of a KV head
  std::vector<int> lengths;  // keys of each sequence
};

enum class DecodeListKind {
  kAll,     // kAllBlocks
  kFull,    // every block, listed
  kSparse,  // a third of the blocks in any order, each KV head's own; the last
  kSingle,  // one block, any
  kNone,    // nothing
  kMixed,   // each pair one of these
};
inline constexpr DecodeListKind kAllDecodeListKinds[] = {
    DecodeListKind::kAll,    DecodeListKind::kFull, DecodeListKind::kSparse,
    DecodeListKind::kSingle, DecodeListKind::kNone, DecodeListKind::kMixed};
const char* NameOf(DecodeListKind kind);

struct HostDecodeBatch {
  DecodeShape shape;
  std::vector<std::uint16_t> queries;  // [sequences, heads, head_dim]
  int pages = 0;
  std::vector<std::uint16_t> keys, values;  // [pages, kv_heads, 64, head_dim]
  std::int64_t page_table_stride = 0;
  std::vector<std::int32_t> page_tables;
  std::vector<std::int32_t> block_counts, blocks;
  std::vector<std::int64_t> block_offsets;
  float scale = 1.0f;

  int sequences() const { return static_cast<int>(shape.lengths.size()); }
  int heads() const { return shape.kv_heads * shape.group; }
};

// Random queries, keys and values; scattered pages; no lists yet.
HostDecodeBatch MakeDecodeBatch(const DecodeShape& shape, std::mt19937& random);
// Lists for every pair. With room for every block, so that lists of another
// kind fit into the same arrays.
void FillDecodeLists(DecodeListKind kind, std::mt19937& random,
                     HostDecodeBatch& batch);
// NaN in all keys and values that no list of the batch shows.
void PoisonUnlisted(HostDecodeBatch& batch);

ReferenceRow ReferenceDecode(const HostDecodeBatch& batch, int sequence,
                             int head);

// The batch on the current device, and room for results.
struct DeviceDecodeBatch {
  explicit DeviceDecodeBatch(const HostDecodeBatch& batch);
  DecodeAttentionArgs Args() const;
  // Results become what no kernel writes.
  void PoisonResults();
  // Keys, values and lists of a batch of the same shape.
  void Replace(const HostDecodeBatch& batch);

  HostDecodeBatch const* host;
  DeviceArray<std::uint16_t> queries, keys, values, output;
  DeviceArray<float> lse;
  DeviceArray<std::int32_t> page_tables, lengths, block_counts, blocks;
  DeviceArray<std::int64_t> block_offsets;
};

}  // namespace sparseserve::cuda
