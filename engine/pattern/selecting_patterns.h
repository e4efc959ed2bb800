#pragma once

// Patterns that choose KV blocks by scores, of prompt rows or, where it is
// said, of output rows or both; the rules and formulas stand in
// layout/selection_rule.h. Rows of the other phase, and layers that the
// checkpoint gives a window, see every key that they may.
//
// With `reuse_steps` a choice of an output row stands for those behind it, up
// to the next position that is a multiple of it: KeptBlocks. It is a power of
// two up to kPageTokens; at 1 every row chooses.

#include <cstdint>

namespace sparseserve {

// Of every prompt block's keys, the blocks whose antidiagonal scores carry most
// of the weight, the first block and its own (XAttention: AntidiagonalRule).
struct XAttentionPattern {
  int32_t stride = 8;  // a power of two, 2 ... 64; cost is 1 / stride of QK
  float threshold = 0.95f;   // share of the weight, above 0 to 1
  int32_t dense_layers = 2;  // the first so many layers see every key
  // The prompt's last query block, which the first token comes from, sees every
  // key.
  bool is_last_block_dense = true;
  friend bool operator==(const XAttentionPattern&,
                         const XAttentionPattern&) = default;
};

// The blocks that hold the keys, or lie along the distances, on which most of
// the weight of the prompt's last rows is (MInference: VerticalSlashRule). The
// prompt's end chooses for all of it, so it runs in one step.
struct VerticalSlashPattern {
  int32_t columns = 100;    // keys, 1 or more
  int32_t diagonals = 200;  // distances, 1 or more
  int32_t rows = 64;        // 1 ... 64
  int32_t dense_layers = 2;
  bool is_last_block_dense = true;
  friend bool operator==(const VerticalSlashPattern&,
                         const VerticalSlashPattern&) = default;
};

// Head by head: the largest of a map of mean queries and keys if it tells what
// the prompt's last rows see, else columns and diagonals of those, either up to
// a share of the weight (FlexPrefillRule). In one step, likewise.
struct FlexPrefillPattern {
  float gamma = 0.95f;  // share of the weight, above 0 to 1
  float tau = 0.1f;     // how far the map may be from the rows, 0 or more
  int32_t min_budget_tokens = 512;  // of keys and of distances, 0 or more
  int32_t dense_layers = 2;
  bool is_last_block_dense = true;
  friend bool operator==(const FlexPrefillPattern&,
                         const FlexPrefillPattern&) = default;
};

// The blocks whose mean keys carry most of the weight of the mean query, and
// those whose keys are too different for a mean to stand for them
// (SpargeAttn's choice of blocks: SimilarityRule).
struct SimilarityGatedPattern {
  float similarity = 0.3f;  // least mean cosine of a block, -1 ... 1
  float threshold = 0.95f;  // share of the weight, above 0 to 1
  int32_t dense_layers = 2;
  bool is_last_block_dense = true;
  friend bool operator==(const SimilarityGatedPattern&,
                         const SimilarityGatedPattern&) = default;
};

// Of every prompt block's keys, the blocks to which one of its rows gives
// enough of its weight, by antidiagonal scores of all rows and the weights of
// some (PeakWeightRule).
struct PeakWeightPattern {
  int32_t stride = 8;  // a power of two, 2 ... 64; cost is 1 / stride of QK
  int32_t rows = 4;    // 0 ... 64; cost is rows / 64 of QK
  float threshold = 0.035f;  // weight that a block is kept for, above 0 to 1
  int32_t dense_layers = 0;
  bool is_last_block_dense = false;
  friend bool operator==(const PeakWeightPattern&,
                         const PeakWeightPattern&) = default;
};

// Of output rows: the first blocks, the latest, and those whose keys could have
// the largest products with the query, by the bounds of their elements (Quest:
// PageBoundRule). Numbers of tokens are rounded up to whole blocks.
struct QuestPattern {
  int32_t budget_tokens = 2048;  // that a row visits; 1 or more
  int32_t sink_tokens = 64;      // of them the first, 0 or more
  int32_t window_tokens = 128;   // of them the latest, 1 or more; the begun
                                 // block counts as a whole one
  int32_t dense_layers = 2;
  int32_t reuse_steps = 1;
  friend bool operator==(const QuestPattern&, const QuestPattern&) = default;
};

// Of output rows: of the blocks that QuestPattern would choose, those that
// carry most of the weight (Twilight: CandidateMassRule).
struct PageTopPPattern {
  int32_t candidate_tokens = 4096;  // 1 or more
  float threshold = 0.95f;          // share of the weight, above 0 to 1
  int32_t sink_tokens = 64;         // as QuestPattern has them
  int32_t window_tokens = 128;
  int32_t dense_layers = 2;
  int32_t reuse_steps = 1;
  friend bool operator==(const PageTopPPattern&,
                         const PageTopPPattern&) = default;
};

// Of prompt and output rows: their own block of `block_tokens` and of those
// before it the ones whose mean keys they like best (MoBA: MeanKeyRule).
// Checkpoints that were trained with it have its block_tokens and top_k, and no
// dense layers or others.
struct MobaPattern {
  int32_t block_tokens = 512;  // a multiple of kPageTokens
  int32_t top_k = 3;           // blocks of a row, its own among them; 1 or more
  int32_t dense_layers = 2;
  int32_t reuse_steps = 1;  // of output rows
  friend bool operator==(const MobaPattern&, const MobaPattern&) = default;
};

}  // namespace sparseserve
