// A sequence's text must not depend on what else is in its batch: exactly in
// f32 mode; in the default mode up to choices that are near ties.

#include <algorithm>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/integration/engine_sequence.h"
#include "tests/integration/golden_logits.h"
#include "tests/testing/default_model.h"

namespace sparseserve {
namespace {

constexpr int kSequences = 16;
constexpr int kTokens = 48;
constexpr float kNearTie = 0.05f;

using Prompt = std::vector<TokenId>;

// What a sequence produced: its tokens, and by how much the largest logit was
// ahead of the second each time.
struct Output {
  std::vector<TokenId> tokens;
  std::vector<float> margins;
};

struct Running {
  EngineSequence sequence;
  Output output;
  std::vector<float> logits;  // [rows of its last slice, vocab_size]
};

float Margin(absl::Span<const float> row) {
  float first = -std::numeric_limits<float>::infinity();
  float second = first;
  for (const float logit : row) {
    second = std::max(second, std::min(first, logit));
    first = std::max(first, logit);
  }
  return first - second;
}

// Appends to `plan` the step of `running` that follows what it has produced.
void AppendSlice(const Prompt& prompt, const SamplingParams& sampling,
                 size_t vocab, Running& running, StepPlan& plan) {
  const std::vector<TokenId>& tokens = running.output.tokens;
  plan.slices.push_back(
      tokens.empty()
          ? running.sequence.Next(Phase::kPrefill, prompt)
          : running.sequence.Next(Phase::kDecode, {&tokens.back(), 1}));
  StepSlice& slice = plan.slices.back();
  slice.wants_token = true;
  slice.sampling = &sampling;
  slice.prompt = prompt;
  slice.output = tokens;
  running.logits.resize(slice.tokens.size() * vocab);
  slice.all_logits = absl::MakeSpan(running.logits);
}

// Continues every prompt by its most likely tokens in one continuous batch:
// prompt i joins in step i, beside the decode rows of the earlier ones.
absl::StatusOr<std::vector<Output>> Continue(
    Engine& engine, const std::vector<Prompt>& prompts) {
  const size_t vocab = engine.info().vocab_size;
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
      if (all[i].output.tokens.size() == kTokens) continue;
      AppendSlice(prompts[i], most_likely, vocab, all[i], plan);
      stepped.push_back(&all[i]);
    }
    const absl::StatusOr<StepResult> result = RunStep(engine, plan);
    if (!result.ok()) return result.status();
    for (size_t i = 0; i < stepped.size(); ++i) {
      stepped[i]->output.margins.push_back(
          Margin(plan.slices[i].all_logits.last(vocab)));
      stepped[i]->output.tokens.push_back(result->slices[i].token);
    }
  }
  std::vector<Output> outputs;
  outputs.reserve(all.size());
  for (Running& running : all) outputs.push_back(std::move(running.output));
  return outputs;
}

// How the outputs of one batch differ from those of the sequences run alone.
struct Differences {
  int identical = 0;
  std::vector<float> margins;  // alone, where a token first differs
};

class BatchInvarianceTest : public ::testing::Test {
 protected:
  absl::StatusOr<Differences> Measure(const std::string& compute_dtype) {
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
    Differences differences;
    for (int i = 0; i < kSequences; ++i) {
      const auto alone = Continue(**engine, {prompts[i]});
      if (!alone.ok()) return alone.status();
      const Output& output = alone->front();
      const auto [ours, theirs] =
          std::mismatch(output.tokens.begin(), output.tokens.end(),
                        (*together)[i].tokens.begin());
      if (ours == output.tokens.end()) {
        ++differences.identical;
      } else {
        differences.margins.push_back(
            output.margins[ours - output.tokens.begin()]);
      }
    }
    std::cout << kSequences << " sequences of " << kTokens
              << " tokens: " << differences.identical
              << " identical alone and together\n";
    return differences;
  }
};

TEST_F(BatchInvarianceTest, ExactModeGivesTheSameTokensInAnyBatch) {
  const absl::StatusOr<Differences> differences = Measure("f32");
  ASSERT_TRUE(differences.ok()) << differences.status();
  EXPECT_EQ(differences->identical, kSequences);
}

TEST_F(BatchInvarianceTest, DefaultModeDiffersOnlyAtNearTies) {
  const absl::StatusOr<Differences> differences = Measure("auto");
  ASSERT_TRUE(differences.ok()) << differences.status();
  for (const float margin : differences->margins) {
    std::cout << "first difference at a margin of " << margin << "\n";
    EXPECT_LT(margin, kNearTie);
  }
}

}  // namespace
}  // namespace sparseserve
