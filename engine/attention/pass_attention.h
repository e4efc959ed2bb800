#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/layout/attention_passes.h"

namespace sparseserve {

// One sequence's projections in a layer: each [tokens, heads * head_dim], not
// scaled.
struct PassProjection {
  ConstMatrixView queries;
  ConstMatrixView keys;
  ConstMatrixView values;
};

// Runs AttentionPasses with a backend's attention: brings a pass's queries,
// keys and values into its order, attends, and combines. It keeps its memory
// between calls, in the host's, which the backend must be able to read. One
// thread.
class PassAttention {
 public:
  // Keys and values are stored in `kv_dtype`, kF32 or kBF16.
  PassAttention(Backend& backend, DType kv_dtype);

  struct Args {
    // As AttentionPass::projection names them.
    absl::Span<const PassProjection> projections;
    int32_t head_dim = 0;  // any number up to 256
    float scale = 1.0f;    // multiplies q . k before the softmax
    MatrixView output;     // [tokens, heads * head_dim]
    // [tokens, heads]: natural log of the softmax's denominator, minus infinity
    // where nothing is seen; of kMean the denominators' sum. May be null.
    float* lse = nullptr;
  };
  // REQUIRES: passes.Validate() is OK, and what they name is there.
  void Run(const AttentionPasses& passes, const Args& args);

 private:
  void Gather(const AttentionPass& pass, const Args& args);
  void GatherKeysAndValues(const AttentionPass& pass, const Args& args);
  void Attend(const AttentionPass& pass, const Args& args);
  void Combine(const AttentionPass& pass, const AttentionPasses& passes,
               const Args& args);
  // The share that a slot whose LSE is `added` has in the output of a token's
  // head so far, [tokens, heads] at `at`.
  float TakeIn(int64_t at, float added, PassCombiner combiner);

  Backend& backend_;
  const DType kv_dtype_;
  int32_t padded_dim_ = 0;  // head_dim rounded up to what backends take
  // Of the pass at hand, [slots, heads of the pass * padded_dim_].
  std::vector<float> queries_;
  std::vector<float> output_;
  std::vector<float> lse_;  // [slots, heads of the pass]
  std::vector<PageId> pages_;
  // [blocks, heads of the pass, 64, padded_dim_] of kv_dtype_; 0 where no token
  // stands.
  std::vector<std::byte> keys_;
  std::vector<std::byte> values_;
  // [tokens, heads] of what is combined: its LSE, and with kMean its slots.
  std::vector<float> token_lse_;
  std::vector<int32_t> token_slots_;
};

}  // namespace sparseserve
