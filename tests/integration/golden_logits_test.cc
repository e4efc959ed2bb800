// Our logits beside those of independent software: transformers in FP32 on the
// dequantised weights of the same file (tests/golden/README.md). The bounds
// here are what the service promises of its arithmetic modes.

#include "tests/integration/golden_logits.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>

#include "gtest/gtest.h"
#include "tests/integration/engine_sequence.h"
#include "tests/integration/logits_comparison.h"
#include "tests/testing/default_model.h"

namespace sparseserve {
namespace {

// Largest difference in exact mode, as a share of the row's range.
constexpr double kExactDifference = 1e-3;

// The most likely continuation of a prompt as the service would produce it:
// the prompt in one prefill slice, then decode steps through the sampler.
struct Continuation {
  std::vector<TokenId> tokens;
  std::vector<float> rows;  // [tokens, vocab_size]: what each was taken from
};

absl::StatusOr<Continuation> Continue(Engine& engine,
                                      const std::vector<TokenId>& prompt,
                                      int count) {
  const size_t vocab = engine.info().vocab_size;
  PagePool pool(engine.kv_pages());
  EngineSequence sequence(pool, /*id=*/1, prompt.size() + count);
  SamplingParams most_likely;
  most_likely.temperature = 0;
  std::vector<float> logits(prompt.size() * vocab);
  Continuation continuation;
  std::vector<TokenId>& tokens = continuation.tokens;
  while (static_cast<int>(tokens.size()) < count) {
    StepPlan plan;
    plan.slices.push_back(
        tokens.empty() ? sequence.Next(Phase::kPrefill, prompt)
                       : sequence.Next(Phase::kDecode, {&tokens.back(), 1}));
    StepSlice& slice = plan.slices.back();
    slice.wants_token = true;
    slice.sampling = &most_likely;
    slice.prompt = prompt;
    slice.output = tokens;
    slice.all_logits =
        absl::MakeSpan(logits).first(slice.tokens.size() * vocab);
    const absl::StatusOr<StepResult> result = RunStep(engine, plan);
    if (!result.ok()) return result.status();
    const auto last_row = slice.all_logits.last(vocab);
    continuation.rows.insert(continuation.rows.end(), last_row.begin(),
                             last_row.end());
    tokens.push_back(result->slices[0].token);
  }
  return continuation;
}

// Feeds `texts`, each as a sequence of its own, and compares every row.
absl::StatusOr<LogitsComparison> Compare(Engine& engine,
                                         const std::vector<GoldenText>& texts,
                                         Feeding feeding) {
  const size_t vocab = engine.info().vocab_size;
  LogitsComparison comparison;
  for (const GoldenText& text : texts) {
    const absl::Status status =
        FeedText(engine, text.tokens, feeding,
                 [&](int first, absl::Span<const float> rows) {
                   for (size_t i = 0; i * vocab < rows.size(); ++i) {
                     const size_t position = first + i;
                     const auto row = rows.subspan(i * vocab, vocab);
                     if (position + 1 < text.tokens.size()) {
                       comparison.AddWithTarget(text.rows, position, row,
                                                text.tokens[position + 1]);
                     } else {
                       comparison.Add(text.rows, position, row);
                     }
                   }
                 });
    if (!status.ok()) return status;
  }
  return comparison;
}

// Largest difference of any logit in the one row of `prompt` that the reference
// has the whole of, as a share of its range. `row`: [vocab_size].
double WholeRowDifference(const GoldenPrompt& prompt, const float* row) {
  const auto [least, largest] =
      std::minmax_element(prompt.full.begin(), prompt.full.end());
  double worst = 0;
  for (size_t id = 0; id < prompt.full.size(); ++id) {
    const double difference = std::abs(row[id] - prompt.full[id]);
    // A NaN counts as infinite.
    if (!(difference <= worst))
      worst = std::isnan(difference) ? HUGE_VAL : difference;
  }
  return worst / (*largest - *least);
}

void ExpectFaithful(const LogitsComparison& comparison) {
  EXPECT_GT(comparison.wide_margins(), 0);
  EXPECT_EQ(comparison.wide_margin_misses(), 0);
  EXPECT_GE(comparison.top1_agreement(), 0.97);
  EXPECT_LE(comparison.mean_divergence(), 0.005);
  EXPECT_NEAR(comparison.perplexity_ratio(), 1.0, 0.005);
}

class GoldenLogitsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<GoldenLogits> golden =
        ReadGoldenLogits("tests/golden/logits");
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
  }

  void Load(const std::string& compute_dtype,
            const std::string& simd = "auto") {
    absl::StatusOr<std::unique_ptr<Engine>> engine =
        LoadEngine(testing::DefaultModelPath(), compute_dtype, simd);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    ASSERT_EQ(engine_->info().vocab_size, golden_.vocab_size);
    std::cout << engine_->DeviceSummary() << "\n";
  }

  // Skips the test where there is none.
  void LoadOnGpu() {
    auto engine =
        LoadEngine(testing::DefaultModelPath(), "auto", "auto", "cuda");
    if (!engine.ok()) GTEST_SKIP() << engine.status().message();
    engine_ = *std::move(engine);
    std::cout << engine_->DeviceSummary() << "\n";
  }

  LogitsComparison CompareAndPrint(const std::vector<GoldenText>& texts,
                                   Feeding feeding) {
    const absl::StatusOr<LogitsComparison> comparison =
        Compare(*engine_, texts, feeding);
    EXPECT_TRUE(comparison.ok()) << comparison.status();
    if (!comparison.ok()) return {};
    std::cout << *comparison << "\n";
    return *comparison;
  }

  GoldenLogits golden_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(GoldenLogitsTest, ExactModeContinuesPromptsLikeTheReference) {
  ASSERT_NO_FATAL_FAILURE(Load("f32"));
  LogitsComparison comparison;
  double worst_full_difference = 0;
  const size_t vocab = golden_.vocab_size;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    const int count = static_cast<int>(prompt.continuation.size());
    const absl::StatusOr<Continuation> ours =
        Continue(*engine_, prompt.tokens, count);
    ASSERT_TRUE(ours.ok()) << prompt.name << ": " << ours.status();
    ASSERT_EQ(ours->tokens, prompt.continuation) << prompt.name;
    std::cout << prompt.name << ": " << count
              << " tokens identical, the reference's least margin "
              << prompt.least_margin << "\n";
    for (int i = 0; i < count; ++i) {
      comparison.Add(prompt.rows, i, {&ours->rows[i * vocab], vocab});
    }
    const double full_difference =
        WholeRowDifference(prompt, &ours->rows[prompt.full_step * vocab]);
    EXPECT_LE(full_difference, kExactDifference) << prompt.name;
    worst_full_difference = std::max(worst_full_difference, full_difference);
  }
  std::cout << comparison << "\nwhole rows: worst logit difference "
            << worst_full_difference << " of range\n";
  EXPECT_LE(comparison.worst_difference(), kExactDifference);
}

TEST_F(GoldenLogitsTest, ExactModePrefillsPassagesLikeTheReference) {
  ASSERT_NO_FATAL_FAILURE(Load("f32"));
  const LogitsComparison comparison =
      CompareAndPrint(golden_.passages, {Phase::kPrefill});
  EXPECT_LE(comparison.worst_difference(), kExactDifference);
  ExpectFaithful(comparison);
}

TEST_F(GoldenLogitsTest, ExactModeDecodesPassagesLikeTheReference) {
  ASSERT_NO_FATAL_FAILURE(Load("f32"));
  const LogitsComparison comparison =
      CompareAndPrint(golden_.passages, {Phase::kDecode});
  EXPECT_LE(comparison.worst_difference(), kExactDifference);
  ExpectFaithful(comparison);
}

// The path of the oldest CPUs that are served, on whatever CPU this is.
TEST_F(GoldenLogitsTest, ExactModeOnAvx2MatchesTheReference) {
  ASSERT_NO_FATAL_FAILURE(Load("f32", "avx2"));
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const LogitsComparison comparison =
        CompareAndPrint(golden_.passages, {phase});
    EXPECT_LE(comparison.worst_difference(), kExactDifference);
    ExpectFaithful(comparison);
  }
}

TEST_F(GoldenLogitsTest, DefaultModePrefillsPassagesFaithfully) {
  ASSERT_NO_FATAL_FAILURE(Load("auto"));
  ExpectFaithful(CompareAndPrint(golden_.passages, {Phase::kPrefill}));
}

TEST_F(GoldenLogitsTest, DefaultModeDecodesPassagesFaithfully) {
  ASSERT_NO_FATAL_FAILURE(Load("auto"));
  ExpectFaithful(CompareAndPrint(golden_.passages, {Phase::kDecode}));
}

TEST_F(GoldenLogitsTest, DefaultModeReadsProseFaithfully) {
  ASSERT_NO_FATAL_FAILURE(Load("auto"));
  const LogitsComparison comparison =
      CompareAndPrint(golden_.prose, {Phase::kPrefill});
  EXPECT_GE(comparison.positions(), 8000);
  ExpectFaithful(comparison);
}

TEST_F(GoldenLogitsTest, AGpuPrefillsAndDecodesPassagesFaithfully) {
  ASSERT_NO_FATAL_FAILURE(LoadOnGpu());
  if (IsSkipped()) return;
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    ExpectFaithful(CompareAndPrint(golden_.passages, {phase}));
  }
}

TEST_F(GoldenLogitsTest, AGpuReadsProseFaithfully) {
  ASSERT_NO_FATAL_FAILURE(LoadOnGpu());
  if (IsSkipped()) return;
  const LogitsComparison comparison =
      CompareAndPrint(golden_.prose, {Phase::kPrefill});
  EXPECT_GE(comparison.positions(), 8000);
  ExpectFaithful(comparison);
}

}  // namespace
}  // namespace sparseserve
