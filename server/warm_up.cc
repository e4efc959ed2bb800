#include "server/warm_up.h"

#include <algorithm>
#include <string>
#include <vector>

#include "engine/base/str_cat.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

// The prompt or, if there is a token behind it, that one.
absl::Status RunSlice(Engine& engine, const std::vector<TokenId>& tokens,
                      size_t prompt) {
  const bool is_prefill = tokens.size() == prompt;
  const size_t first = is_prefill ? 0 : prompt;
  const std::vector<PageId> pages = {0, 1};
  SamplingParams greedy;
  greedy.temperature = 0;
  StepSlice slice;
  slice.sequence = 1;
  slice.phase = is_prefill ? Phase::kPrefill : Phase::kDecode;
  slice.tokens = absl::MakeConstSpan(tokens).subspan(first);
  slice.first_position = static_cast<int>(first);
  slice.pages = absl::MakeConstSpan(pages).first(
      (tokens.size() + kPageTokens - 1) / kPageTokens);
  slice.prompt = absl::MakeConstSpan(tokens).first(prompt);
  slice.output = absl::MakeConstSpan(tokens).subspan(prompt);
  slice.wants_token = true;
  slice.sampling = &greedy;
  StepPlan plan;
  plan.slices = {slice};
  const absl::StatusOr<StepResult> result = engine.Step(plan);
  if (!result.ok()) return result.status();
  return result->slices.front().status;
}

}  // namespace

absl::Status WarmUp(Engine& engine) {
  const ModelInfo& info = engine.info();
  const int most =
      std::min({kPageTokens, info.context_tokens - 1, engine.max_step_tokens(),
                engine.kv_pages() * kPageTokens - 1});
  std::vector<TokenId> tokens;
  for (int i = 0; i < most; ++i) tokens.push_back(i % info.vocab_size);
  const size_t prompt = tokens.size();
  absl::Status status = RunSlice(engine, tokens, prompt);
  if (status.ok()) {
    tokens.push_back(0);
    status = RunSlice(engine, tokens, prompt);
  }
  if (status.ok()) return status;
  return absl::InternalError(
      StrCat("the model does not run: ", std::string(status.message())));
}

}  // namespace sparseserve
