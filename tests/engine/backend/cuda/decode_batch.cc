#include "tests/engine/backend/cuda/decode_batch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/engine/backend/cuda/bfloat16_bits.h"

namespace sparseserve::cuda {
namespace {

constexpr int kPageTokens = 64;
constexpr int kFreePages = 5;  // nobody's

int BlocksOf(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// Blocks that a list of the kind names, for a sequence of so many.
std::vector<std::int32_t> ChooseBlocks(DecodeListKind kind, int blocks,
                                       std::mt19937& random) {
  std::vector<std::int32_t> chosen(blocks);
  std::iota(chosen.begin(), chosen.end(), 0);
  if (kind == DecodeListKind::kAll || kind == DecodeListKind::kFull) {
    return chosen;
  }
  if (kind == DecodeListKind::kNone || blocks == 0) return {};
  if (kind == DecodeListKind::kSingle) {
    return {static_cast<std::int32_t>(random() % blocks)};
  }
  std::shuffle(chosen.begin(), chosen.end() - 1, random);
  chosen.erase(chosen.begin(), chosen.begin() + (blocks - 1) * 2 / 3);
  return chosen;
}

// Where the visible keys of a pair begin in keys and values.
std::vector<std::int64_t> VisibleTo(const HostDecodeBatch& batch, int pair) {
  const int kv_heads = batch.shape.kv_heads;
  const int sequence = pair / kv_heads, kv_head = pair % kv_heads;
  const int tokens = batch.shape.lengths[sequence];
  const bool all = batch.block_counts[pair] == kAllBlocks;
  const int count = all ? BlocksOf(tokens) : batch.block_counts[pair];
  std::vector<std::int64_t> visible;
  for (int i = 0; i < count; ++i) {
    const int block = all ? i : batch.blocks[batch.block_offsets[pair] + i];
    for (int key = 0; key < kPageTokens; ++key) {
      if (block * kPageTokens + key >= tokens) break;
      const std::int64_t page =
          batch.page_tables[sequence * batch.page_table_stride + block];
      visible.push_back(((page * kv_heads + kv_head) * kPageTokens + key) *
                        batch.shape.head_dim);
    }
  }
  return visible;
}

}  // namespace

const char* NameOf(DecodeListKind kind) {
  switch (kind) {
    case DecodeListKind::kAll:
      return "all";
    case DecodeListKind::kFull:
      return "full";
    case DecodeListKind::kSparse:
      return "sparse";
    case DecodeListKind::kSingle:
      return "single";
    case DecodeListKind::kNone:
      return "none";
    case DecodeListKind::kMixed:
      return "mixed";
  }
  return "unknown";
}

HostDecodeBatch MakeDecodeBatch(const DecodeShape& shape,
                                std::mt19937& random) {
  HostDecodeBatch batch;
  batch.shape = shape;
  batch.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  batch.pages = kFreePages;
  batch.page_table_stride = 1;
  for (int tokens : shape.lengths) {
    batch.pages += BlocksOf(tokens);
    batch.page_table_stride =
        std::max<std::int64_t>(batch.page_table_stride, BlocksOf(tokens));
  }
  batch.queries = RandomElements(
      std::int64_t{batch.sequences()} * batch.heads() * shape.head_dim, random);
  const std::int64_t elements =
      std::int64_t{batch.pages} * shape.kv_heads * kPageTokens * shape.head_dim;
  batch.keys = RandomElements(elements, random);
  batch.values = RandomElements(elements, random);
  std::vector<std::int32_t> free_pages(batch.pages);
  std::iota(free_pages.begin(), free_pages.end(), 0);
  std::shuffle(free_pages.begin(), free_pages.end(), random);
  // A table's rest names no page there is.
  batch.page_tables.assign(batch.sequences() * batch.page_table_stride,
                           std::numeric_limits<std::int32_t>::max());
  for (int i = 0; i < batch.sequences(); ++i) {
    for (int block = 0; block < BlocksOf(shape.lengths[i]); ++block) {
      batch.page_tables[i * batch.page_table_stride + block] =
          free_pages.back();
      free_pages.pop_back();
    }
  }
  return batch;
}

void FillDecodeLists(DecodeListKind kind, std::mt19937& random,
                     HostDecodeBatch& batch) {
  const int kv_heads = batch.shape.kv_heads;
  const int pairs = batch.sequences() * kv_heads;
  const std::int64_t room = batch.page_table_stride;
  batch.block_counts.assign(pairs, 0);
  batch.block_offsets.assign(pairs, 0);
  batch.blocks.assign(pairs * room, std::numeric_limits<std::int32_t>::max());
  for (int pair = 0; pair < pairs; ++pair) {
    const DecodeListKind own = kind == DecodeListKind::kMixed
                                   ? kAllDecodeListKinds[random() % 5]
                                   : kind;
    const auto chosen = ChooseBlocks(
        own, BlocksOf(batch.shape.lengths[pair / kv_heads]), random);
    batch.block_offsets[pair] = pair * room;
    batch.block_counts[pair] = own == DecodeListKind::kAll
                                   ? kAllBlocks
                                   : static_cast<std::int32_t>(chosen.size());
    if (own == DecodeListKind::kAll) continue;
    std::copy(chosen.begin(), chosen.end(), batch.blocks.begin() + pair * room);
  }
}

void PoisonUnlisted(HostDecodeBatch& batch) {
  const int width = batch.shape.head_dim;
  std::vector<bool> shown(batch.keys.size() / width);
  const int pairs = batch.sequences() * batch.shape.kv_heads;
  for (int pair = 0; pair < pairs; ++pair) {
    for (std::int64_t at : VisibleTo(batch, pair)) shown[at / width] = true;
  }
  for (std::size_t row = 0; row < shown.size(); ++row) {
    if (shown[row]) continue;
    std::fill_n(batch.keys.begin() + row * width, width, kBfloat16Nan);
    std::fill_n(batch.values.begin() + row * width, width, kBfloat16Nan);
  }
}

ReferenceRow ReferenceDecode(const HostDecodeBatch& batch, int sequence,
                             int head) {
  const int width = batch.shape.head_dim;
  const std::int64_t row = std::int64_t{sequence} * batch.heads() + head;
  return ReferenceRowOver(batch.queries.data() + row * width, batch.keys.data(),
                          batch.values.data(),
                          VisibleTo(batch, sequence * batch.shape.kv_heads +
                                               head / batch.shape.group),
                          width, batch.scale);
}

DeviceDecodeBatch::DeviceDecodeBatch(const HostDecodeBatch& batch)
    : host(&batch),
      queries(batch.queries),
      keys(batch.keys),
      values(batch.values),
      output(batch.queries.size()),
      lse(batch.sequences() * batch.heads()),
      page_tables(batch.page_tables),
      lengths(std::vector<std::int32_t>(batch.shape.lengths.begin(),
                                        batch.shape.lengths.end())),
      block_counts(batch.block_counts),
      blocks(batch.blocks),
      block_offsets(batch.block_offsets) {}

DecodeAttentionArgs DeviceDecodeBatch::Args() const {
  DecodeAttentionArgs args;
  args.sequences = host->sequences();
  args.queries = queries.data();
  args.heads = host->heads();
  args.query_stride = std::int64_t{args.heads} * host->shape.head_dim;
  args.kv = {keys.data(),
             values.data(),
             host->pages,
             host->shape.kv_heads,
             host->shape.head_dim,
             page_tables.data(),
             host->page_table_stride};
  args.lengths = lengths.data();
  args.lists = {block_counts.data(), block_offsets.data(), blocks.data()};
  args.scale = host->scale;
  args.output = output.data();
  args.output_stride = args.query_stride;
  args.lse = lse.data();
  return args;
}

void DeviceDecodeBatch::PoisonResults() {
  cudaMemset(output.data(), 0xff, output.size() * sizeof(std::uint16_t));
  cudaMemset(lse.data(), 0xff, lse.size() * sizeof(float));
}

void DeviceDecodeBatch::Replace(const HostDecodeBatch& batch) {
  host = &batch;
  keys.Upload(batch.keys);
  values.Upload(batch.values);
  block_counts.Upload(batch.block_counts);
  blocks.Upload(batch.blocks);
  block_offsets.Upload(batch.block_offsets);
}

}  // namespace sparseserve::cuda
