#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/engine.h"
#include "engine/kv/page_pool.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/step.h"

namespace sparseserve {

// The model on the CPU with KV pages for at least one whole context. The other
// two are as in Engine::Options.
absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(
    const std::string& model_path, const std::string& compute_dtype,
    const std::string& simd = "auto", const std::string& device = "cpu");

// One sequence driven through Engine::Step() by hand. Owns its pages and knows
// how far it has come; must not outlive `pool`. For one thread.
class EngineSequence {
 public:
  // REQUIRES: `pool` has pages free for `max_tokens`.
  EngineSequence(PagePool& pool, SequenceId id, int max_tokens);

  // The slice that runs `tokens` after those of all earlier calls. Borrows
  // `tokens` and this sequence's pages.
  StepSlice Next(Phase phase, absl::Span<const TokenId> tokens);

  int position() const { return position_; }

 private:
  SequenceId id_;
  PageLease lease_;
  KeptBlocks kept_blocks_;
  int position_ = 0;
};

// Runs `plan` and returns the first error of the step or of a slice.
absl::StatusOr<StepResult> RunStep(Engine& engine, const StepPlan& plan);

// How a text is fed to the engine: in prefill slices of `chunk_tokens`, or
// token by token in decode slices.
struct Feeding {
  Phase phase = Phase::kPrefill;
  int chunk_tokens = 256;
};

// Runs `tokens` as one new sequence and hands over the logits of each step:
// rows [n, vocab_size] for positions first ... first + n - 1.
absl::Status FeedText(
    Engine& engine, absl::Span<const TokenId> tokens, Feeding feeding,
    absl::FunctionRef<void(int first, absl::Span<const float> rows)> consume);

}  // namespace sparseserve
