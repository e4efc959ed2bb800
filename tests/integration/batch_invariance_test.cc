// A sequence's text must not depend on what else is in its batch.

#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/integration/engine_sequence.h"
#include "tests/integration/golden_logits.h"
#include "tests/testing/default_model.h"

namespace sparseserve {
namespace {

constexpr int kSequences = 16;
constexpr int kTokens = 48;

using Prompt = std::vector<TokenId>;

struct Running {
  EngineSequence sequence;
  std::vector<TokenId> tokens;  // that it produced
};

// Appends to `plan` the step of `running` that follows what it has produced.
void AppendSlice(const Prompt& prompt, const SamplingParams& sampling,
                 Running& running, StepPlan& plan) {
  const std::vector<TokenId>& tokens = running.tokens;
  plan.slices.push_back(
      tokens.empty()
          ? running.sequence.Next(Phase::kPrefill, prompt)
          : running.sequence.Next(Phase::kDecode, {&tokens.back(), 1}));
  StepSlice& slice = plan.slices.back();
  slice.wants_token = true;
  slice.sampling = &sampling;
  slice.prompt = prompt;
  slice.output = tokens;
}

// Continues every prompt by its most likely tokens in one continuous batch:
// prompt i joins in step i, beside the decode rows of the earlier ones.
absl::StatusOr<std::vector<std::vector<TokenId>>> Continue(
    Engine& engine, const std::vector<Prompt>& prompts) {
  PagePool pool(engine.kv_pages());
  SamplingParams most_likely;
  most_likely.temperature = 0;
  std::vector<Running> all;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const int most_tokens = static_cast<int>(prompts[i].size()) + kTokens;
    all.push_back({EngineSequence(pool, /*id=*/i + 1, most_tokens)});
  }
  for (size_t step = 0; step < prompts.size() + kTokens - 1; ++step) {
    StepPlan plan;
    std::vector<Running*> stepped;
    for (size_t i = 0; i < all.size() && i <= step; ++i) {
      if (all[i].tokens.size() == kTokens) continue;
      AppendSlice(prompts[i], most_likely, all[i], plan);
      stepped.push_back(&all[i]);
    }
    const absl::StatusOr<StepResult> result = RunStep(engine, plan);
    if (!result.ok()) return result.status();
    for (size_t i = 0; i < stepped.size(); ++i) {
      stepped[i]->tokens.push_back(result->slices[i].token);
    }
  }
  std::vector<std::vector<TokenId>> outputs;
  outputs.reserve(all.size());
  for (Running& running : all) outputs.push_back(std::move(running.tokens));
  return outputs;
}

class BatchInvarianceTest : public ::testing::Test {
 protected:
  // How many sequences give the same tokens alone and together.
  absl::StatusOr<int> CountIdentical(const std::string& compute_dtype) {
    auto golden = ReadGoldenLogits("tests/golden/logits");
    if (!golden.ok()) return golden.status();
    auto engine = LoadEngine(testing::DefaultModelPath(), compute_dtype);
    if (!engine.ok()) return engine.status();
    std::cout << (*engine)->DeviceSummary() << "\n";

    std::vector<Prompt> prompts;
    const Prompt& prose = golden->prose[0].tokens;
    for (ptrdiff_t i = 0; i < kSequences; ++i) {
      const auto first = prose.begin() + 229 * i;
      prompts.emplace_back(first, first + 5 + 13 * i);
    }
    const auto together = Continue(**engine, prompts);
    if (!together.ok()) return together.status();
    int identical = 0;
    for (int i = 0; i < kSequences; ++i) {
      const auto alone = Continue(**engine, {prompts[i]});
      if (!alone.ok()) return alone.status();
      identical += alone->front() == (*together)[i];
    }
    std::cout << kSequences << " sequences of " << kTokens
              << " tokens: " << identical << " identical alone and together\n";
    return identical;
  }
};

TEST_F(BatchInvarianceTest, ExactModeGivesTheSameTokensInAnyBatch) {
  const absl::StatusOr<int> identical = CountIdentical("f32");
  ASSERT_TRUE(identical.ok()) << identical.status();
  EXPECT_EQ(*identical, kSequences);
}

TEST_F(BatchInvarianceTest, DefaultModeGivesTheSameTokensInAnyBatch) {
  const absl::StatusOr<int> identical = CountIdentical("auto");
  ASSERT_TRUE(identical.ok()) << identical.status();
  EXPECT_EQ(*identical, kSequences);
}

}  // namespace
}  // namespace sparseserve
