#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/layout/attention_passes.h"

namespace sparseserve {

// Native sparse attention (Yuan et al., arXiv 2502.11089), trained into
// checkpoints: three attentions over one sequence, whose outputs are added with
// gates as weights. Compressed key c stands for tokens [c stride, c stride +
// compressed_tokens); a row sees those whose tokens all lie at or before it. Of
// blocks of keys it sees the first, its own, the one before, and those where
// its compressed keys have most weight; and it sees the latest keys.
struct NsaPattern {
  int32_t compressed_tokens = 32;  // a multiple of stride
  int32_t stride = 16;             // 1 or more
  int32_t block_tokens = 64;       // a multiple of stride
  int32_t selected_blocks = 16;  // of a row, those above among them; 3 or more
  int32_t window_tokens = 512;   // 1 or more
  friend bool operator==(const NsaPattern&, const NsaPattern&) = default;
};

// INVALID_ARGUMENT "nsa: PARAMETER is VALUE; allowed: RANGE".
absl::Status CheckNsaPattern(const NsaPattern& pattern);

// Those that a sequence of so many tokens has; also those that its last row
// sees.
int32_t NsaCompressedKeys(const NsaPattern& pattern, int64_t tokens);

// Whether a sequence can be so large: INVALID_ARGUMENT names the pattern's
// parameter or the count that does not fit. To be asked before scores are taken
// of all its rows.
absl::Status CheckNsaCounts(const NsaPattern& pattern, int64_t tokens,
                            int64_t heads, int64_t kv_heads);

// The blocks that a row selects, ascending. `weights`, [query heads of a KV
// head, NsaCompressedKeys(row + 1)], are those of its softmax over compressed
// keys; a block scores their sum, each once for each stride that the compressed
// key shares with the block, ties to the earlier block. Scores that are no
// number are above all others: garbage must come to light. REQUIRES: the
// pattern passes its check.
std::vector<int32_t> SelectNsaBlocks(const NsaPattern& pattern, int32_t row,
                                     absl::Span<const double> weights);

// What the pattern is applied to.
struct NsaTokens {
  int32_t tokens = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // divides heads
  // [tokens, kv_heads]: the blocks of SelectNsaBlocks().
  std::vector<std::vector<int32_t>> blocks;
};

// One pass each, in the order of positions. Keys of the compressed one are not
// the sequence's: its key tokens number compressed keys. Rows that no
// compressed key stands before have no tile there.
struct NsaPasses {
  AttentionPasses compressed;
  AttentionPasses selected;
  AttentionPasses window;
};

// INVALID_ARGUMENT names what does not fit.
absl::StatusOr<NsaPasses> MakeNsaPasses(const NsaPattern& pattern,
                                        const NsaTokens& tokens);

}  // namespace sparseserve
