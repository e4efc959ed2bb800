#include "engine/profile/attention_profile.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

int64_t Heads(const AttentionProfile::Shape& shape) {
  return int64_t{shape.layers} * shape.heads;
}

int32_t BlocksOf(int32_t tokens) {
  return (tokens + kPageTokens - 1) / kPageTokens;
}

std::vector<int32_t> SampledBlocks(int32_t blocks, int32_t most) {
  if (blocks == 1) return {0};
  const int32_t from = blocks - 1;  // all but the first
  const int32_t count = std::min(from, most);
  std::vector<int32_t> sampled;
  for (int32_t i = 1; i <= count; ++i) {
    sampled.push_back(
        static_cast<int32_t>(int64_t{i} * from / count));  // ends with `from`
  }
  return sampled;
}

}  // namespace

AttentionProfile::AttentionProfile(const Shape& shape, Options options)
    : shape_(shape), options_(std::move(options)) {
  SPARSESERVE_CHECK(shape.layers >= 1 && shape.kv_heads >= 1);
  SPARSESERVE_CHECK(shape.heads % shape.kv_heads == 0 && shape.tokens >= 1);
  SPARSESERVE_CHECK(options_.max_blocks >= 1 && options_.top_keys >= 1);
  int32_t least = 0;
  for (const int32_t query : options_.queries) {
    SPARSESERVE_CHECK(query >= least && query < shape.tokens);
    least = query + 1;
  }
  const int32_t blocks = BlocksOf(shape.tokens);
  blocks_ = SampledBlocks(blocks, options_.max_blocks);
  sums_.resize(Heads(shape));
  for (WeightSums& sums : sums_) {
    sums.keys.assign(shape.tokens, 0.0f);
    sums.distances.assign(shape.tokens, 0.0f);
    sums.sink_distances.assign(shape.tokens, 0.0f);
    sums.heaviest_blocks.assign(blocks, 0.0);
  }
  attended_.resize(options_.queries.size() * Heads(shape) * options_.top_keys);
  visited_.resize(int64_t{shape.layers} * shape.kv_heads);
}

int64_t AttentionProfile::Bytes(const Shape& shape) {
  const int64_t of_head =
      static_cast<int64_t>(sizeof(WeightSums)) +
      int64_t{shape.tokens} * 3 * static_cast<int64_t>(sizeof(float)) +
      int64_t{BlocksOf(shape.tokens)} * static_cast<int64_t>(sizeof(double));
  return Heads(shape) * of_head;
}

int64_t AttentionProfile::sampled_rows() const {
  int64_t rows = 0;
  for (const int32_t block : blocks_) {
    rows += std::min(kPageTokens, shape_.tokens - block * kPageTokens);
  }
  return rows;
}

absl::Span<WeightSums> AttentionProfile::layer_sums(int32_t layer) {
  return absl::MakeSpan(sums_).subspan(int64_t{layer} * shape_.heads,
                                       shape_.heads);
}

const WeightSums& AttentionProfile::sums(int32_t layer, int32_t head) const {
  return sums_[int64_t{layer} * shape_.heads + head];
}

absl::Span<AttendedKey> AttentionProfile::attended(int32_t query,
                                                   int32_t layer) {
  const int64_t width = int64_t{shape_.heads} * options_.top_keys;
  return absl::MakeSpan(attended_).subspan(
      (int64_t{query} * shape_.layers + layer) * width, width);
}

absl::Span<const AttendedKey> AttentionProfile::attended(int32_t query,
                                                         int32_t layer,
                                                         int32_t head) const {
  const int64_t index =
      (int64_t{query} * shape_.layers + layer) * shape_.heads + head;
  return absl::MakeConstSpan(attended_).subspan(index * options_.top_keys,
                                                options_.top_keys);
}

AttentionBlocks& AttentionProfile::visited(int32_t layer, int32_t kv_head) {
  return visited_[int64_t{layer} * shape_.kv_heads + kv_head];
}

const AttentionBlocks& AttentionProfile::visited(int32_t layer,
                                                 int32_t kv_head) const {
  return visited_[int64_t{layer} * shape_.kv_heads + kv_head];
}

}  // namespace sparseserve
