#pragma once

// Patterns whose rows see what positions alone say. i is a query's position, j
// that of a key at or before it; every query sees its own key.

#include <cstdint>

namespace sparseserve {

// Every key.
struct DensePattern {
  friend bool operator==(const DensePattern&, const DensePattern&) = default;
};

// The latest keys, the query's own among them: i - j < window_tokens. As
// trained into Mistral and Gemma.
struct SlidingWindowPattern {
  int32_t window_tokens = 1;  // at least 1
  friend bool operator==(const SlidingWindowPattern&,
                         const SlidingWindowPattern&) = default;
};

// The first keys and the latest: j < sink_tokens or i - j < window_tokens
// (StreamingLLM, Xiao et al., arXiv 2309.17453, without its new numbers of
// positions; MInference's A-shape).
struct SinkWindowPattern {
  int32_t sink_tokens = 4;       // 0 or more
  int32_t window_tokens = 2044;  // at least 1
  friend bool operator==(const SinkWindowPattern&,
                         const SinkWindowPattern&) = default;
};

// Likewise for a prompt, but its last query blocks see every key, and so do
// decode rows (Li et al., arXiv 2412.10319; TriangleMix). Query blocks are of
// kPageTokens, counted from position 0. Chunks of a prompt follow it if slices
// name the whole prompt (StepSlice::prompt).
struct TriShapePattern {
  int32_t sink_tokens = 8;      // 0 or more
  int32_t window_tokens = 512;  // at least 1
  int32_t dense_blocks = 2;     // 0 or more; the last one may be begun
  friend bool operator==(const TriShapePattern&,
                         const TriShapePattern&) = default;
};

// The two attentions that the factorised patterns below are made of. The paper
// merges them in one head, or gives every other layer or head one of them: a
// PatternMap says which.
enum class FactorizedPart { kBoth, kLocal, kSummary };

// Sparse Transformer (Child et al., arXiv 1904.10509), strided. Local:
// i - j < stride; summary: (i - j) % stride == 0.
struct StridedPattern {
  int32_t stride = 128;  // at least 1
  FactorizedPart part = FactorizedPart::kBoth;
  friend bool operator==(const StridedPattern&,
                         const StridedPattern&) = default;
};

// The same paper's fixed pattern. Local: i / period == j / period. Summary:
// the last `columns` places of every period or, so that heads can differ,
// column_group times as many places before them.
struct FixedPattern {
  int32_t period_tokens = 128;  // at least 1
  int32_t columns = 8;          // 1 or more
  int32_t column_group = 0;     // (column_group + 1) * columns <= period_tokens
  FactorizedPart part = FactorizedPart::kBoth;
  friend bool operator==(const FixedPattern&, const FixedPattern&) = default;
};

// Every dilation-th of the latest keys: (i - j) % dilation == 0 and
// i - j < window_keys * dilation (Longformer's, Beltagy et al., arXiv
// 2004.05150, in its causal form).
struct DilatedWindowPattern {
  int32_t dilation = 2;       // at least 1
  int32_t window_keys = 512;  // at least 1
  friend bool operator==(const DilatedWindowPattern&,
                         const DilatedWindowPattern&) = default;
};

// Keys of the query's own chunk: i / chunk_tokens == j / chunk_tokens. As
// trained into Llama 4.
struct ChunkedLocalPattern {
  int32_t chunk_tokens = 8192;  // at least 1
  friend bool operator==(const ChunkedLocalPattern&,
                         const ChunkedLocalPattern&) = default;
};

// No key: the KV head and its query heads add 0 to the layer's output (head
// pruning, Michel et al., arXiv 1905.10650). For some heads of a map. Their
// projections are still multiplied.
struct PrunedPattern {
  friend bool operator==(const PrunedPattern&, const PrunedPattern&) = default;
};

}  // namespace sparseserve
