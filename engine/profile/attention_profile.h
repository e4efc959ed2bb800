#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/step.h"

namespace sparseserve {

// The first keys of a text, on which heads lay weight that they have no other
// use for (Xiao et al., arXiv 2309.17453).
inline constexpr int kSinkKeys = 4;

// Dense attention weights of one head, summed up over sampled rows.
struct WeightSums {
  // Of rows: -sum_j a ln a, in nats; that divided by the logarithm of the keys
  // that the row sees, 0 where it sees one; e to the entropy.
  double entropy = 0;
  double relative_entropy = 0;
  double effective_keys = 0;
  std::vector<float> keys;       // [tokens]: weight by the key's position
  std::vector<float> distances;  // [tokens]: by query minus key position
  // Likewise, but of the first kSinkKeys keys alone.
  std::vector<float> sink_distances;
  // [blocks]: element b sums, over query blocks, the weight on the b + 1
  // heaviest KV blocks for the mean row of the query block.
  std::vector<double> heaviest_blocks;
  // Of the pattern that the sequence followed: share of the row's dense weight
  // on the keys that it visited, and rows where that is below a half.
  double recall = 0;
  int64_t low_recall_rows = 0;
};

struct AttendedKey {
  int32_t position = -1;  // -1: the row sees fewer keys
  float weight = 0;
};

// What one prompt's attention looks like, head by head. Made before the prompt
// runs; the steps that run it add to it (StepSlice::profile), and it is whole
// once the last token ran. Dense weights are over the queries and keys of those
// steps, and over what the checkpoint itself lets a layer see. Memory grows
// with layers * heads * tokens. Used by one thread at a time.
class AttentionProfile {
 public:
  struct Shape {
    int32_t layers = 0;
    int32_t heads = 0;
    int32_t kv_heads = 0;
    int32_t tokens = 0;  // of the prompt, at least 1
  };
  struct Options {
    // Query blocks of 64 rows whose rows are summed up: all but the first, or
    // so many of them spread evenly, the last among them. The rows of the first
    // see few keys; they count where a prompt has no others.
    int32_t max_blocks = 32;
    // Positions whose heaviest keys are wanted, ascending, each in the prompt.
    std::vector<int32_t> queries = {};
    int32_t top_keys = 8;  // of each; at least 1
  };

  AttentionProfile(const Shape& shape, Options options);

  // Bytes that a profile of this shape holds, queries apart.
  static int64_t Bytes(const Shape& shape);

  const Shape& shape() const { return shape_; }
  absl::Span<const int32_t> blocks() const { return blocks_; }  // ascending
  absl::Span<const int32_t> queries() const { return options_.queries; }
  int32_t top_keys() const { return options_.top_keys; }
  int64_t sampled_rows() const;
  int32_t prompt_blocks() const {
    return (shape_.tokens + kPageTokens - 1) / kPageTokens;
  }

  // [heads] of a layer.
  absl::Span<WeightSums> layer_sums(int32_t layer);
  const WeightSums& sums(int32_t layer, int32_t head) const;
  // [heads, top_keys] of a query of `queries()` in a layer, heaviest first.
  absl::Span<AttendedKey> attended(int32_t query, int32_t layer);
  absl::Span<const AttendedKey> attended(int32_t query, int32_t layer,
                                         int32_t head) const;
  // What the pattern visited, over all query blocks.
  AttentionBlocks& visited(int32_t layer, int32_t kv_head);
  const AttentionBlocks& visited(int32_t layer, int32_t kv_head) const;

 private:
  Shape shape_;
  Options options_;
  std::vector<int32_t> blocks_;
  std::vector<WeightSums> sums_;          // [layers, heads]
  std::vector<AttendedKey> attended_;     // [queries, layers, heads, top_keys]
  std::vector<AttentionBlocks> visited_;  // [layers, kv_heads]
};

}  // namespace sparseserve
