// Patterns of positions, and maps of them, through the engine's door.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fed_text.h"
#include "tests/testing/static_rules.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using testing::ExpectLogitsEqual;
using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::StaticCase;
using testing::StaticCases;
using testing::Stream;
using testing::TinyModel;

constexpr int kPrompt = 230;
constexpr int kTokens = kPrompt + 3;  // those after the prompt are decode rows
constexpr int kVocab = TinyModel::kVocabSize;

using Outcome = testing::FedText;

Outcome Feed(Engine& engine, const std::vector<TokenId>& tokens,
             const AttentionChoice* choice, int chunk = kPrompt) {
  return testing::Feed(engine, tokens, kPrompt, choice, chunk);
}

std::vector<std::vector<double>> ReferenceLogits(
    const TinyModel& model, const std::vector<TokenId>& tokens,
    const std::vector<PatternSpec>& patterns,
    const std::vector<int>& pattern_of) {
  return testing::ReferenceLogitsOf(model, tokens, kPrompt, patterns,
                                    pattern_of);
}

TEST(EnginePatternsTest, EveryStaticPatternEqualsTheReferenceOfItsRule) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 1);
  for (const StaticCase& c : StaticCases()) {
    SCOPED_TRACE(c.name);
    const AttentionChoice choice = {.pattern = c.pattern};
    testing::OracleReport report(std::string(PatternName(c.pattern)), "logits");
    ExpectLogitsEqual(Feed(*engine, tokens, &choice).logits,
                      ReferenceLogits(model, tokens, {c.pattern}, {0, 0, 0, 0}),
                      &report);
  }
}

class PatternsOfDtypeTest : public ::testing::TestWithParam<const char*> {
 protected:
  static std::unique_ptr<Engine> Make() {
    Engine::Options options = testing::ExactOptions();
    options.compute_dtype = GetParam();
    return MakeEngine(TinyModel(), options);
  }
};
INSTANTIATE_TEST_SUITE_P(EnginePatternsTest, PatternsOfDtypeTest,
                         ::testing::Values("f32", "bf16"),
                         [](const auto& dtype) { return dtype.param; });

TEST_P(PatternsOfDtypeTest, ChunksAreTheWholePromptToTheBit) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 2);
  for (const StaticCase& c : StaticCases()) {
    SCOPED_TRACE(c.name);
    const AttentionChoice choice = {.pattern = c.pattern};
    const Outcome whole = Feed(*engine, tokens, &choice);
    for (const int chunk : {64, 101}) {
      ASSERT_EQ(Feed(*engine, tokens, &choice, chunk).logits, whole.logits);
    }
  }
}

TEST_P(PatternsOfDtypeTest, ASuffixChangesNoRowBeforeIt) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 3);
  constexpr int kEdited = 150;
  std::vector<TokenId> edited = tokens;
  for (int i = kEdited; i < kTokens; ++i) edited[i] = (edited[i] + 7) % 256;
  for (const StaticCase& c : StaticCases()) {
    SCOPED_TRACE(c.name);
    const AttentionChoice choice = {.pattern = c.pattern};
    std::vector<float> before = Feed(*engine, tokens, &choice).logits;
    std::vector<float> after = Feed(*engine, edited, &choice).logits;
    EXPECT_NE(before, after);
    before.resize(kEdited * kVocab);
    after.resize(kEdited * kVocab);
    ASSERT_EQ(before, after);
  }
}

std::shared_ptr<const PatternMap> Map(std::vector<PatternSpec> patterns,
                                      const std::vector<int32_t>& pattern_of) {
  return std::make_shared<const PatternMap>(
      PatternMap::Create({2, 2}, std::move(patterns), pattern_of).value());
}

TEST(EnginePatternsTest, MapOfDifferentHeadsEqualsTheReference) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 4);
  const std::vector<PatternSpec> patterns = {
      SinkWindowPattern{4, 70}, StridedPattern{50}, ChunkedLocalPattern{100}};
  const AttentionChoice choice = {.map = Map(patterns, {0, 1, 1, 2})};
  const Outcome found = Feed(*engine, tokens, &choice, 100);
  ExpectLogitsEqual(found.logits,
                    ReferenceLogits(model, tokens, patterns, {0, 1, 1, 2}));
  EXPECT_LT(found.blocks.computed, found.blocks.allowed);
  EXPECT_EQ(Feed(*engine, tokens, &choice).logits, found.logits);
}

// TriangleMix: dense layers, and behind them those of tri-shape.
TEST(EnginePatternsTest, DenseLayersBeforeThoseOfAPatternAreAMap) {
  TinyModel model;
  model.layers = 3;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 7);
  const std::vector<PatternSpec> patterns = {DensePattern(),
                                             TriShapePattern{4, 40, 1}};
  const std::vector<int> pattern_of = {0, 0, 1, 1, 1, 1};
  const AttentionChoice choice = {
      .map = std::make_shared<const PatternMap>(
          PatternMap::Create({3, 2}, patterns, pattern_of).value())};
  const Outcome found = Feed(*engine, tokens, &choice, 100);
  testing::OracleReport report("triangle_mix", "logits");
  ExpectLogitsEqual(found.logits,
                    ReferenceLogits(model, tokens, patterns, pattern_of),
                    &report);
  EXPECT_EQ(Feed(*engine, tokens, &choice).logits, found.logits);
}

TEST(EnginePatternsTest, MapOfOnePatternIsThePatternToTheBit) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 5);
  for (const PatternSpec& pattern :
       {PatternSpec(DensePattern()), PatternSpec(StridedPattern{50}),
        PatternSpec(XAttentionPattern{.threshold = 0.5f, .dense_layers = 1})}) {
    const AttentionChoice one = {.pattern = pattern};
    const AttentionChoice map = {.map = Map({pattern}, {0, 0, 0, 0})};
    const Outcome expected = Feed(*engine, tokens, &one);
    const Outcome found = Feed(*engine, tokens, &map);
    EXPECT_EQ(found.logits, expected.logits);
    EXPECT_EQ(found.blocks.computed, expected.blocks.computed);
  }
}

TEST(EnginePatternsTest, PrunedHeadsVisitNothing) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 6);
  const std::vector<PatternSpec> patterns = {DensePattern(), PrunedPattern()};
  const AttentionChoice choice = {.map = Map(patterns, {0, 1, 1, 0})};
  const Outcome found = Feed(*engine, tokens, &choice);
  testing::OracleReport report("pruned", "logits");
  ExpectLogitsEqual(found.logits,
                    ReferenceLogits(model, tokens, patterns, {0, 1, 1, 0}),
                    &report);
  EXPECT_EQ(2 * found.blocks.computed, found.blocks.allowed);
}

// A selecting head that keeps every block is dense; one that does not changes
// nothing for its neighbour's list.
TEST(EnginePatternsTest, SelectingHeadsStandBesideStaticOnes) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 6);
  const std::vector<PatternSpec> patterns = {DilatedWindowPattern{3, 40},
                                             DensePattern()};
  const auto selecting = [](float threshold) {
    return XAttentionPattern{.threshold = threshold,
                             .dense_layers = 0,
                             .is_last_block_dense = false};
  };
  AttentionChoice choice = {
      .map = Map({patterns[0], selecting(1.0f)}, {0, 1, 1, 0})};
  const Outcome all = Feed(*engine, tokens, &choice);
  ExpectLogitsEqual(all.logits,
                    ReferenceLogits(model, tokens, patterns, {0, 1, 1, 0}));
  choice.map = Map({patterns[0], selecting(0.3f)}, {0, 1, 1, 0});
  const Outcome some = Feed(*engine, tokens, &choice);
  EXPECT_NE(some.logits, all.logits);
  // Tiles 2 and 3 of the prompt select, in one head of either layer: they keep
  // two blocks at least of three and of four.
  EXPECT_LT(some.blocks.computed, all.blocks.computed);
  EXPECT_GE(some.blocks.computed, all.blocks.computed - 2 * (1 + 2));
  EXPECT_EQ(some.blocks.allowed, all.blocks.allowed);
}

TEST(EnginePatternsTest, SlicesOfDifferentChoicesDoNotDisturbEachOther) {
  const auto engine = MakeEngine(TinyModel());
  const AttentionChoice choices[] = {
      {.map =
           Map({SinkWindowPattern{4, 70}, StridedPattern{50}}, {0, 1, 1, 0})},
      {.pattern = FixedPattern{100, 8}},
      {.map = Map({DensePattern(), SlidingWindowPattern{30}}, {0, 1, 0, 1})}};
  std::vector<Stream> streams;
  std::vector<std::vector<float>> logits(3);
  StepPlan plan;
  for (int i = 0; i < 3; ++i) {
    streams.emplace_back(RandomTokens(150 + i, 10 + i), /*first_page=*/8 * i);
  }
  for (int i = 0; i < 3; ++i) {
    plan.slices.push_back(NextSlice(streams[i], 150 + i, logits[i]));
    plan.slices[i].attention = &choices[i];
  }
  const StepResult together = engine->Step(plan).value();
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(together.slices[i].status, absl::OkStatus());
    const std::vector<float> beside = logits[i];
    StepPlan alone;
    alone.slices.push_back(NextSlice(streams[i], 150 + i, logits[i]));
    alone.slices[0].attention = &choices[i];
    const StepResult result = engine->Step(alone).value();
    EXPECT_EQ(logits[i], beside);
    EXPECT_EQ(result.slices[0].blocks.computed,
              together.slices[i].blocks.computed);
  }
}

TEST(EnginePatternsTest, MapOfAnotherModelFailsItsSliceByName) {
  const auto engine = MakeEngine(TinyModel());
  const AttentionChoice choice = {
      .map = std::make_shared<const PatternMap>(
          PatternMap::Create({30, 3}, {DensePattern()},
                             std::vector<int32_t>(90))
              .value())};
  Stream stream(RandomTokens(4, 1), /*first_page=*/0);
  std::vector<float> logits;
  StepSlice slice = NextSlice(stream, 4, logits);
  slice.attention = &choice;
  const absl::Status status = testing::SliceStatus(*engine, slice);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("its pattern map is for 30 layers with 3 KV heads, the "
                        "model has 2 with 2"));
}

}  // namespace
}  // namespace sparseserve
