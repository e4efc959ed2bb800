#pragma once

// Patterns of encoders and of models whose rows see keys behind them too: what
// each head of one layer sees. They are trained into checkpoints, no choice of
// a server. What becomes of them for a given sequence: AttentionPasses, by the
// function that is named after the pattern. To add one, add its struct to the
// variant; the compiler then finds every place that must know it.

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"

namespace sparseserve {

// Longformer (Beltagy et al., arXiv 2004.05150) and the encoder of LED. A query
// at i sees keys at j with |i - j| <= one_sided_window * dilation and
// (i - j) % dilation == 0, and the sequence's global tokens; those see all, by
// projections of their own.
struct LongformerPattern {
  int32_t one_sided_window = 256;  // steps to either side, 0 or more
  // [heads], each at least 1; empty: 1 in all.
  std::vector<int32_t> dilations;
  bool is_causal = false;  // only keys at or before the query
  friend bool operator==(const LongformerPattern&,
                         const LongformerPattern&) = default;
};

// BigBird (Zaheer et al., arXiv 2007.14062): tokens are cut into blocks; the
// first and the last see all and are seen by all, every other sees itself, its
// two neighbours, and blocks that were drawn. That is "ITC", as built into
// transformers; "ETC" has extra tokens before those of the blocks, which see
// all and are seen by all too.
struct BigBirdPattern {
  int32_t block_tokens = 64;  // at least 1
  int32_t random_blocks = 3;  // of a row of blocks, 0 or more
  int32_t extra_tokens = 0;   // 0 or more
  friend bool operator==(const BigBirdPattern&,
                         const BigBirdPattern&) = default;
};

// Windows of a grid of patches, in every other layer shifted (Swin, Liu et al.,
// arXiv 2103.14030).
struct SwinPattern {
  int32_t window = 7;  // places on a side, at least 1
  int32_t shift = 0;   // 0 ... window - 1
  friend bool operator==(const SwinPattern&, const SwinPattern&) = default;
};

// Reformer's attention by hashes (Kitaev et al., arXiv 2001.04451) as built
// into transformers: in every round tokens are sorted by their bucket, and
// chunks of the sorted order see themselves and their neighbours.
struct ReformerLshPattern {
  int32_t chunk_tokens = 64;  // at least 1
  int32_t chunks_before = 1;  // 0 or more
  int32_t chunks_after = 0;   // 0 or more
  bool is_causal = true;
  friend bool operator==(const ReformerLshPattern&,
                         const ReformerLshPattern&) = default;
};

// Lines of a grid along one of its axes (axial attention, Ho et al., arXiv
// 1912.12180): a place sees those that differ from it on the axis alone.
struct AxialPattern {
  int32_t axis = 0;        // of the grid
  bool is_causal = false;  // only places at or before it on the axis
  friend bool operator==(const AxialPattern&, const AxialPattern&) = default;
};

// A graph over tokens that comes with the sequence, and the neighbours of each
// token (Brahma et al., "Breaking BERT", arXiv 2210.03841). A token sees itself
// and whom its arcs and its degree join it with.
struct TokenGraphPattern {
  // [heads]: neighbours so far to either side, 0 or more; empty: 0 in all.
  std::vector<int32_t> degrees;
  friend bool operator==(const TokenGraphPattern&,
                         const TokenGraphPattern&) = default;
};

// Clusters by content (Routing Transformer, Roy et al., arXiv 2003.05997): each
// takes the queries and the keys that lie nearest to its centroid, which see
// one another.
struct RoutingPattern {
  int32_t capacity = 256;  // of a cluster, in queries and in keys; at least 1
  bool is_causal = true;   // only keys at or before the query
  friend bool operator==(const RoutingPattern&,
                         const RoutingPattern&) = default;
};

// A long and a global sequence (ETC, Ainslie et al., arXiv 2004.08483): long
// tokens see those of their segment nearby, global tokens each other, and what
// is structure says which of the others. Pairs have labels that add to their
// scores.
struct EtcPattern {
  int32_t radius = 84;  // of long tokens among themselves, 0 or more
  // Pairs of one sequence that lie further apart have the label of this
  // distance; 0 or more.
  int32_t max_distance = 12;
  friend bool operator==(const EtcPattern&, const EtcPattern&) = default;
};

// A binary tree over blocks (H-Transformer-1D, Zhu and Soricut, arXiv
// 2107.11906): a token sees its own block and the one that shares its parent
// token by token, and the sibling of each larger ancestor by means over as many
// tokens as the ancestor has blocks. Its query is a mean there too, also of a
// causal pattern: tokens behind it that share the mean show in it.
struct HTransformerPattern {
  int32_t block_tokens = 16;  // at least 1
  bool is_causal = false;     // only siblings before it, and tokens
  friend bool operator==(const HTransformerPattern&,
                         const HTransformerPattern&) = default;
};

using EncoderPattern =
    std::variant<LongformerPattern, BigBirdPattern, SwinPattern,
                 ReformerLshPattern, AxialPattern, TokenGraphPattern,
                 RoutingPattern, EtcPattern, HTransformerPattern>;

// "longformer", "big_bird", "swin", "reformer_lsh", "axial", "token_graph",
// "routing", "etc", "h_transformer".
std::string_view EncoderPatternName(const EncoderPattern& pattern);

// INVALID_ARGUMENT "PATTERN: PARAMETER is VALUE; allowed: RANGE" for the first
// parameter that is out of its range.
absl::Status CheckEncoderPattern(const EncoderPattern& pattern);

// Tokens of one sequence, and heads of a layer: more than any encoder has, and
// few enough that no number of slots overflows.
inline constexpr int32_t kMaxEncoderTokens = 1 << 20;
inline constexpr int32_t kMaxEncoderHeads = 1024;
// Where what vectors hold decides.
inline constexpr int32_t kMaxEncoderHeadDim = 1024;
// Of a grid.
inline constexpr int32_t kMaxEncoderAxes = 8;
// In a table of ETC.
inline constexpr int32_t kMaxEtcLabels = 1 << 12;

// The same for a pattern and what it is applied to.
absl::Status CheckSequence(const EncoderPattern& pattern, int64_t tokens,
                           int32_t heads);

}  // namespace sparseserve
