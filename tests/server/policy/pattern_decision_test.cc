#include "server/policy/pattern_decision.h"

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Five layers of three KV heads.
ModelInfo Model(std::vector<int> layer_windows = {}) {
  ModelInfo model;
  model.layers = 5;
  model.kv_heads = 3;
  model.layer_windows = std::move(layer_windows);
  return model;
}
ModelInfo Mistral() { return Model({128, 128, 128, 128, 128}); }
ModelInfo Gemma() { return Model({128, 128, 0, 128, 0}); }

int Heads(const PatternDecision& decision, Phase phase,
          const PatternSpec& kind) {
  return decision.heads[static_cast<int>(phase)][kind.index()];
}

TEST(DecideTest, KeepsPlanPatternAndTraits) {
  const PatternSpec pattern = XAttentionPattern{.stride = 16};
  const PatternDecision decision = Decide("fast", pattern, Model());
  EXPECT_EQ(decision.plan, "fast");
  EXPECT_EQ(decision.choice.pattern, pattern);
  EXPECT_EQ(decision.traits.chunk_border_tokens, 64);
  EXPECT_FALSE(decision.traits.rules_decode);
}

TEST(DecideTest, DenseRulesEveryHeadInBothPhases) {
  const PatternDecision decision = Decide("dense", DensePattern(), Model());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, DensePattern()), 15);
  EXPECT_EQ(Heads(decision, Phase::kDecode, DensePattern()), 15);
}

TEST(DecideTest, LayersAndPhasesThatThePatternLeavesAloneAreDense) {
  const PatternSpec pattern = XAttentionPattern{.dense_layers = 1};
  const PatternDecision decision = Decide("", pattern, Model());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, pattern), 12);
  EXPECT_EQ(Heads(decision, Phase::kPrefill, DensePattern()), 3);
  EXPECT_EQ(Heads(decision, Phase::kDecode, pattern), 0);
  EXPECT_EQ(Heads(decision, Phase::kDecode, DensePattern()), 15);
  EXPECT_EQ(decision.ruled_heads[pattern.index()], 12);
}

struct QualityRow {
  PatternSpec pattern;
  QualityClass prompt, output;
  bool is_prompt_dense, is_output_dense;
};

TEST(DecideTest, PhasesWithoutAPatternAreExactAndOthersAreNotUnlessTrainedIn) {
  constexpr QualityClass kExact = QualityClass::kExact;
  constexpr QualityClass kUnbounded = QualityClass::kUnbounded;
  const QualityRow rows[] = {
      {DensePattern(), kExact, kExact, true, true},
      {XAttentionPattern(), kUnbounded, kExact, false, true},
      {XAttentionPattern{.dense_layers = 5}, kExact, kExact, true, true},
      {QuestPattern(), kExact, kUnbounded, true, false},
      {SinkWindowPattern(), kUnbounded, kUnbounded, false, false},
      {SlidingWindowPattern{128}, kExact, kExact, false, false},
  };
  for (const QualityRow& row : rows) {
    SCOPED_TRACE(PatternName(row.pattern));
    const PatternDecision decision = Decide("", row.pattern, Model());
    EXPECT_THAT(decision.quality, ElementsAre(row.prompt, row.output));
    EXPECT_THAT(decision.is_dense,
                ElementsAre(row.is_prompt_dense, row.is_output_dense));
  }
}

TEST(DecideTest, KnowsHowMuchOfAPromptsEndIsTreatedApart) {
  const auto blocks = [](const PatternSpec& pattern) {
    return Decide("", pattern, Model()).prompt_end_blocks;
  };
  EXPECT_EQ(blocks(DensePattern()), 0);
  EXPECT_EQ(blocks(SinkWindowPattern()), 0);
  EXPECT_EQ(blocks(TriShapePattern{.dense_blocks = 3}), 3);
  EXPECT_EQ(blocks(XAttentionPattern()), 1);
  EXPECT_EQ(blocks(XAttentionPattern{.is_last_block_dense = false}), 0);
  EXPECT_EQ(blocks(DeltaPattern{TriShapePattern{.dense_blocks = 2}}), 2);
  EXPECT_EQ(blocks(DeltaPattern{XAttentionPattern()}), 1);
}

TEST(DecideTest, APromptsEndIsTreatedApartUnderOtherPatternsToo) {
  const auto blocks = [](const PatternSpec& pattern) {
    return Decide("", pattern, Model()).prompt_end_blocks;
  };
  int bases = 0;
  for (const PatternSpec& pattern : EveryPattern()) {
    std::visit(
        [&](const auto& base) {
          using Base = decltype(base);
          if constexpr (std::is_constructible_v<SkipSoftmaxBase, Base>) {
            EXPECT_EQ(blocks(SkipSoftmaxPattern{base}), blocks(base))
                << PatternName(base);
            ++bases;
          }
          if constexpr (std::is_constructible_v<DeltaBase, Base>) {
            EXPECT_EQ(blocks(DeltaPattern{base}), blocks(base))
                << PatternName(base);
            ++bases;
          }
        },
        pattern);
  }
  EXPECT_EQ(bases, std::variant_size_v<SkipSoftmaxBase> +
                       std::variant_size_v<DeltaBase>);
  EXPECT_EQ(blocks(SkipSoftmaxPattern{TriShapePattern{.dense_blocks = 2}}), 2);
}

TEST(DecideTest, MoreDenseLayersThanTheModelHasLeaveNothingToChoose) {
  const PatternSpec pattern = XAttentionPattern{.dense_layers = 6};
  const PatternDecision decision = Decide("", pattern, Model());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, pattern), 0);
  EXPECT_EQ(Heads(decision, Phase::kPrefill, DensePattern()), 15);
}

TEST(DecideTest, ScoresDoNotChooseWhereTheCheckpointHasAWindow) {
  const PatternSpec pattern = XAttentionPattern{.dense_layers = 0};
  const PatternDecision decision = Decide("", pattern, Gemma());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, pattern), 6);
  EXPECT_EQ(Heads(decision, Phase::kPrefill, DensePattern()), 9);
}

TEST(DecideTest, AWindowRulesBothPhases) {
  const PatternSpec pattern = SlidingWindowPattern{128};
  const PatternDecision decision = Decide("", pattern, Mistral());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, pattern), 15);
  EXPECT_EQ(Heads(decision, Phase::kDecode, pattern), 15);
}

TEST(DecideTest, OutputAfterATriShapedPromptIsDense) {
  const PatternSpec pattern = TriShapePattern();
  const PatternDecision decision = Decide("", pattern, Model());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, pattern), 15);
  EXPECT_EQ(Heads(decision, Phase::kDecode, DensePattern()), 15);
}

TEST(DecideTest, ACorrectedPatternRulesWhatItsBaseRules) {
  const PatternSpec chosen = DeltaPattern{XAttentionPattern{.dense_layers = 1}};
  const PatternDecision decision = Decide("", chosen, Model());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, chosen), 12);
  EXPECT_EQ(Heads(decision, Phase::kPrefill, DensePattern()), 3);
  EXPECT_EQ(Heads(decision, Phase::kDecode, DensePattern()), 15);
  EXPECT_EQ(decision.traits.chunk_border_tokens, 64);
  const PatternSpec near = DeltaPattern{SinkWindowPattern()};
  EXPECT_EQ(Heads(Decide("", near, Model()), Phase::kDecode, near), 15);
}

TEST(DecideTest, SkippingRulesEveryHeadInBothPhases) {
  for (const SkipSoftmaxBase& base :
       {SkipSoftmaxBase(DensePattern()),
        SkipSoftmaxBase(XAttentionPattern{.dense_layers = 1}),
        SkipSoftmaxBase(QuestPattern())}) {
    const PatternSpec pattern = SkipSoftmaxPattern{base};
    for (const ModelInfo& model : {Model(), Gemma()}) {
      const PatternDecision decision = Decide("", pattern, model);
      EXPECT_EQ(Heads(decision, Phase::kPrefill, pattern), 15);
      EXPECT_EQ(Heads(decision, Phase::kDecode, pattern), 15);
    }
  }
}

TEST(DecideTest, APatternOfOutputAloneIsReportedByItsOutput) {
  const PatternSpec pattern = QuestPattern{.dense_layers = 1};
  const PatternDecision decision = Decide("", pattern, Model());
  EXPECT_EQ(Heads(decision, Phase::kPrefill, DensePattern()), 15);
  EXPECT_EQ(Heads(decision, Phase::kDecode, pattern), 12);
  EXPECT_EQ(Heads(decision, Phase::kDecode, DensePattern()), 3);
  EXPECT_EQ(decision.ruled_heads[pattern.index()], 12);
}

// Two layers of two heads: chosen and windowed, dense and windowed.
AttentionChoice Mixed() {
  return {.map = std::make_shared<const PatternMap>(
              PatternMap::Create({2, 2},
                                 {XAttentionPattern{.dense_layers = 0},
                                  SinkWindowPattern(), DensePattern()},
                                 {0, 1, 2, 1})
                  .value())};
}

TEST(DecideTest, HeadsOfAMapFollowTheirOwnPatterns) {
  ModelInfo model;
  model.layers = 2;
  model.kv_heads = 2;
  const PatternDecision decision = Decide("mixed", Mixed(), model);
  EXPECT_EQ(Heads(decision, Phase::kPrefill, XAttentionPattern()), 1);
  EXPECT_EQ(Heads(decision, Phase::kPrefill, SinkWindowPattern()), 2);
  EXPECT_EQ(Heads(decision, Phase::kPrefill, DensePattern()), 1);
  EXPECT_EQ(Heads(decision, Phase::kDecode, XAttentionPattern()), 0);
  EXPECT_EQ(Heads(decision, Phase::kDecode, SinkWindowPattern()), 2);
  EXPECT_EQ(Heads(decision, Phase::kDecode, DensePattern()), 2);
  EXPECT_EQ(decision.traits.chunk_border_tokens, 64);
  EXPECT_TRUE(decision.traits.rules_decode);
  EXPECT_THAT(FollowedKinds(Mixed(), Phase::kDecode, model, 0),
              ElementsAre(PatternSpec(DensePattern()).index(),
                          PatternSpec(SinkWindowPattern()).index()));
}

TEST(DecideTest, HeadsThatTheModelDoesWithoutFollowNothing) {
  ModelInfo model;
  model.layers = 2;
  model.kv_heads = 2;
  model.pruned_heads = {{1, {1}}};
  const int dense = static_cast<int>(PatternSpec(DensePattern()).index());
  const int window = static_cast<int>(PatternSpec(SinkWindowPattern()).index());
  const AttentionChoice choice = {SinkWindowPattern()};
  EXPECT_THAT(FollowedKinds(choice, Phase::kPrefill, model, 0),
              ElementsAre(window, window));
  EXPECT_THAT(FollowedKinds(choice, Phase::kPrefill, model, 1),
              ElementsAre(window, dense));
}

TEST(ChoiceNameTest, NamesEachPatternOfAMapOnce) {
  EXPECT_EQ(ChoiceName({XAttentionPattern()}), "xattention");
  EXPECT_EQ(ChoiceName(Mixed()), "xattention+sink_window+dense");
  const AttentionChoice widths = {
      .map = std::make_shared<const PatternMap>(
          PatternMap::Create(
              {1, 2}, {SinkWindowPattern{4, 64}, SinkWindowPattern{4, 128}},
              {0, 1})
              .value())};
  EXPECT_EQ(ChoiceName(widths), "sink_window");
}

// What rules output alone shows in the report beside heads that are dense, or
// that rule prompts too.
TEST(DecideTest, HeadsOfAMapAreReportedByWhatRulesThem) {
  ModelInfo model;
  model.layers = 1;
  model.kv_heads = 3;
  const auto reported = [&](const PatternSpec& other) {
    const AttentionChoice choice = {
        .map = std::make_shared<const PatternMap>(
            PatternMap::Create({1, 3}, {QuestPattern{.dense_layers = 0}, other},
                               {0, 1, 0})
                .value())};
    return Decide("mixed", choice, model).ruled_heads;
  };
  const size_t quest = PatternSpec(QuestPattern()).index();
  const size_t dense = PatternSpec(DensePattern()).index();
  EXPECT_EQ(reported(DensePattern())[quest], 2);
  EXPECT_EQ(reported(DensePattern())[dense], 1);
  const size_t window = PatternSpec(SinkWindowPattern()).index();
  EXPECT_EQ(reported(SinkWindowPattern())[quest], 2);
  EXPECT_EQ(reported(SinkWindowPattern())[window], 1);
}

TEST(WhyUnsupportedTest, WindowsAreOnlyForCheckpointsTrainedWithThem) {
  EXPECT_THAT(WhyUnsupported(SlidingWindowPattern{128}, Model()),
              HasSubstr("not trained with a window"));
  EXPECT_THAT(WhyUnsupported(SlidingWindowPattern{128}, Gemma()),
              HasSubstr("not trained with a window in every layer"));
  EXPECT_EQ(WhyUnsupported(SlidingWindowPattern{128}, Mistral()), "");
  EXPECT_EQ(WhyUnsupported(SlidingWindowPattern{64}, Mistral()),
            "the checkpoint was trained with a window of 128 tokens, not of "
            "64");
}

TEST(WhyUnsupportedTest, RulesNeedAKernelOfTheirKind) {
  ModelInfo model = Model();
  model.selection_rules =
      SelectionRuleKinds::Of<AntidiagonalRule, PageBoundRule>();
  EXPECT_EQ(WhyUnsupported(XAttentionPattern(), model), "");
  EXPECT_EQ(WhyUnsupported(QuestPattern(), model), "");
  EXPECT_EQ(WhyUnsupported(DensePattern(), model), "");
  EXPECT_EQ(WhyUnsupported(MobaPattern(), model),
            "no kernel of the server's device chooses blocks as moba does");
  EXPECT_THAT(WhyUnsupported(VerticalSlashPattern(), model),
              HasSubstr("vertical_slash"));
}

TEST(WhyUnsupportedTest, ScoresNeedALayerWithoutAWindow) {
  for (const PatternSpec& pattern :
       {PatternSpec(XAttentionPattern()), PatternSpec(VerticalSlashPattern()),
        PatternSpec(FlexPrefillPattern()),
        PatternSpec(SimilarityGatedPattern()), PatternSpec(PeakWeightPattern()),
        PatternSpec(QuestPattern()), PatternSpec(PageTopPPattern()),
        PatternSpec(MobaPattern()),
        PatternSpec(DeltaPattern{XAttentionPattern()}),
        PatternSpec(SkipSoftmaxPattern{XAttentionPattern()})}) {
    EXPECT_EQ(WhyUnsupported(pattern, Model()), "");
    EXPECT_EQ(WhyUnsupported(pattern, Gemma()), "");
    EXPECT_THAT(WhyUnsupported(pattern, Mistral()),
                HasSubstr("window of its own"));
  }
}

TEST(WhyUnsupportedTest, SkippingNeedsADeviceThatSkips) {
  ModelInfo model = Model();
  EXPECT_EQ(WhyUnsupported(SkipSoftmaxPattern(), model), "");
  model.skips_blocks = false;
  EXPECT_EQ(WhyUnsupported(SkipSoftmaxPattern(), model),
            "the server's device does not leave out blocks by their scores");
  EXPECT_EQ(WhyUnsupported(XAttentionPattern(), model), "");
}

TEST(WhyUnsupportedTest, NoModelHasNoneButPrunedHeads) {
  for (const ModelInfo& model : {Model(), Mistral(), Gemma()}) {
    EXPECT_THAT(WhyUnsupported(PrunedPattern(), model),
                HasSubstr("some heads of a plan's map"));
  }
}

TEST(WhyUnsupportedTest, DenseIsForEveryModel) {
  for (const ModelInfo& model : {Model(), Mistral(), Gemma()}) {
    EXPECT_THAT(WhyUnsupported(DensePattern(), model), IsEmpty());
  }
}

std::vector<std::string_view> SupportedNames(const ModelInfo& model) {
  std::vector<std::string_view> names;
  for (const PatternSpec& pattern : SupportedPatterns(model)) {
    names.push_back(PatternName(pattern));
  }
  return names;
}

TEST(SupportedPatternsTest, FollowTheCheckpoint) {
  for (const ModelInfo& model : {Model(), Gemma()}) {
    EXPECT_THAT(SupportedNames(model),
                ElementsAre("dense", "sink_window", "tri_shape", "xattention",
                            "vertical_slash", "flex_prefill",
                            "similarity_gated", "peak_weight", "quest",
                            "page_top_p", "moba", "delta", "skip_softmax"));
  }
  EXPECT_THAT(SupportedNames(Mistral()),
              ElementsAre("dense", "sliding_window", "sink_window", "tri_shape",
                          "delta", "skip_softmax"));
  EXPECT_EQ(SupportedPatterns(Mistral())[1],
            PatternSpec(SlidingWindowPattern{128}));
}

}  // namespace
}  // namespace sparseserve
