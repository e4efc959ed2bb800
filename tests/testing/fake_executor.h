#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/step.h"

namespace sparseserve::testing {

// A model whose next token is a hash of all tokens before it, which it reads
// back from its pages: a page that two sequences write, or a chunk that was
// left out, changes the text. Notes every breach of StepPlan's contract. Of
// patterns other than dense it counts a prompt block's own block and the first,
// and says that they have half of the weight.
class FakeExecutor : public StepExecutor {
 public:
  FakeExecutor(int pages, int max_step_tokens);

  // What draws `tokens`' successor by default: a letter, 'a' ... 'z'.
  static TokenId NextToken(absl::Span<const TokenId> tokens);

  absl::StatusOr<StepResult> Step(const StepPlan& plan) override;

  // Set before the first step. Each may be empty.
  // Runs first; a status other than OK is the device's failure.
  std::function<absl::Status(const StepPlan&)> on_step;
  // A slice's own status.
  std::function<absl::Status(const StepSlice&)> slice_status;
  // Draws instead of NextToken().
  std::function<TokenId(const StepSlice&)> draw;

  int steps() const { return steps_; }
  // One line per breach.
  const std::vector<std::string>& breaches() const { return breaches_; }

 private:
  void CheckPlan(const StepPlan& plan);
  void CheckSlice(const StepSlice& slice);
  SliceResult RunSlice(const StepSlice& slice);

  const int pages_;
  const int max_step_tokens_;
  int steps_ = 0;
  std::vector<TokenId> kv_;  // [pages, kPageTokens]
  std::vector<std::string> breaches_;
};

}  // namespace sparseserve::testing
