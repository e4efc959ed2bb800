#include "engine/pattern/pattern_spec.h"

#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "engine/layout/block_layout.h"
#include "engine/pattern/every_pattern.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(PatternSpecTest, NamesAreThoseOfTheApi) {
  EXPECT_EQ(PatternName(DensePattern()), "dense");
  EXPECT_EQ(PatternName(SlidingWindowPattern{7}), "sliding_window");
  EXPECT_EQ(PatternName(SinkWindowPattern()), "sink_window");
  EXPECT_EQ(PatternName(TriShapePattern()), "tri_shape");
  EXPECT_EQ(PatternName(StridedPattern()), "strided");
  EXPECT_EQ(PatternName(FixedPattern()), "fixed");
  EXPECT_EQ(PatternName(DilatedWindowPattern()), "dilated_window");
  EXPECT_EQ(PatternName(ChunkedLocalPattern()), "chunked_local");
  EXPECT_EQ(PatternName(XAttentionPattern()), "xattention");
  EXPECT_EQ(PatternName(VerticalSlashPattern()), "vertical_slash");
  EXPECT_EQ(PatternName(FlexPrefillPattern()), "flex_prefill");
  EXPECT_EQ(PatternName(SimilarityGatedPattern()), "similarity_gated");
  EXPECT_EQ(PatternName(PeakWeightPattern()), "peak_weight");
  EXPECT_EQ(PatternName(QuestPattern()), "quest");
  EXPECT_EQ(PatternName(PageTopPPattern()), "page_top_p");
  EXPECT_EQ(PatternName(MobaPattern()), "moba");
  EXPECT_EQ(PatternName(PrunedPattern()), "pruned");
  EXPECT_EQ(PatternName(DeltaPattern()), "delta");
  EXPECT_EQ(PatternName(SkipSoftmaxPattern()), "skip_softmax");
}

TEST(PatternSpecTest, EveryKindIsListedOnce) {
  const std::vector<PatternSpec> patterns = EveryPattern();
  ASSERT_EQ(patterns.size(), static_cast<size_t>(kPatternKinds));
  std::set<std::string_view> names;
  for (size_t kind = 0; kind < patterns.size(); ++kind) {
    EXPECT_EQ(patterns[kind].index(), kind);
    EXPECT_EQ(CheckPattern(patterns[kind]), absl::OkStatus());
    names.insert(PatternName(patterns[kind]));
  }
  EXPECT_EQ(names.size(), patterns.size());
}

TEST(PatternSpecTest, DefaultsAndLimitsPass) {
  const PatternSpec kGood[] = {
      DensePattern(),           SlidingWindowPattern(),
      SinkWindowPattern(),      SinkWindowPattern{0, 1},
      TriShapePattern(),        TriShapePattern{0, 1, 0},
      StridedPattern(),         StridedPattern{1},
      FixedPattern(),           FixedPattern{1, 1},
      FixedPattern{128, 32, 3}, FixedPattern{100, 30, 2},
      DilatedWindowPattern(),   DilatedWindowPattern{1, 1},
      ChunkedLocalPattern(),    ChunkedLocalPattern{1},
      XAttentionPattern(),      VerticalSlashPattern(),
      FlexPrefillPattern(),     SimilarityGatedPattern(),
      PeakWeightPattern(),      QuestPattern()};
  for (const PatternSpec& pattern : kGood) {
    EXPECT_EQ(CheckPattern(pattern), absl::OkStatus());
  }
  for (const int stride : {2, 64}) {
    EXPECT_EQ(CheckPattern(XAttentionPattern{
                  .stride = stride, .threshold = 1, .dense_layers = 0}),
              absl::OkStatus());
  }
  const int32_t most = std::numeric_limits<int32_t>::max();
  for (const PatternSpec& pattern :
       {PatternSpec(VerticalSlashPattern{1, 1, 1, 0}),
        PatternSpec(VerticalSlashPattern{most, most, 64, most}),
        PatternSpec(FlexPrefillPattern{1e-30f, 0.0f, 0, 0}),
        PatternSpec(FlexPrefillPattern{1.0f, 1e30f, most, most}),
        PatternSpec(SimilarityGatedPattern{-1.0f, 1e-30f, 0}),
        PatternSpec(SimilarityGatedPattern{1.0f, 1.0f, most}),
        PatternSpec(PeakWeightPattern{2, 0, 1e-30f, 0}),
        PatternSpec(PeakWeightPattern{64, 64, 1.0f, most}),
        PatternSpec(QuestPattern{1, 0, 1, 0}),
        PatternSpec(QuestPattern{most, most, most, most}),
        PatternSpec(PageTopPPattern{1, 1e-30f, 0, 1, 0}),
        PatternSpec(PageTopPPattern{most, 1.0f, most, most, most}),
        PatternSpec(MobaPattern{64, 1, 0}),
        PatternSpec(MobaPattern{most - 63, most, most}),
        PatternSpec(DeltaPattern{XAttentionPattern(), 8}),
        PatternSpec(DeltaPattern{SinkWindowPattern{most, most}, 64})}) {
    EXPECT_EQ(CheckPattern(pattern), absl::OkStatus());
  }
}

TEST(PatternSpecTest, ParametersOutOfRangeAreNamedWithTheirRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const struct {
    PatternSpec pattern;
    const char* message;
  } kCases[] = {
      {SlidingWindowPattern{0},
       "sliding_window: window_tokens is 0; allowed: 1 or more"},
      {SinkWindowPattern{-1, 5},
       "sink_window: sink_tokens is -1; allowed: 0 or more"},
      {SinkWindowPattern{4, 0},
       "sink_window: window_tokens is 0; allowed: 1 or more"},
      {TriShapePattern{-4}, "tri_shape: sink_tokens is -4; allowed: 0 or more"},
      {TriShapePattern{4, 0},
       "tri_shape: window_tokens is 0; allowed: 1 or more"},
      {TriShapePattern{4, 9, -1},
       "tri_shape: dense_blocks is -1; allowed: 0 or more"},
      {StridedPattern{0}, "strided: stride is 0; allowed: 1 or more"},
      {FixedPattern{0}, "fixed: period_tokens is 0; allowed: 1 or more"},
      {FixedPattern{9, 0},
       "fixed: columns is 0; allowed: 1 to period_tokens, 9"},
      {FixedPattern{100, 1 << 30, 1 << 30},
       "fixed: columns is 1073741824; allowed: 1 to period_tokens, 100"},
      {FixedPattern{9, 1, -2},
       "fixed: column_group is -2; allowed: 0 to period_tokens / columns - 1, "
       "8"},
      {FixedPattern{100, 30, 3},
       "fixed: column_group is 3; allowed: 0 to period_tokens / columns - 1, "
       "2"},
      {DilatedWindowPattern{0},
       "dilated_window: dilation is 0; allowed: 1 or more"},
      {DilatedWindowPattern{3, 0},
       "dilated_window: window_keys is 0; allowed: 1 or more"},
      {ChunkedLocalPattern{0},
       "chunked_local: chunk_tokens is 0; allowed: 1 or more"},
      {XAttentionPattern{.stride = 0},
       "xattention: stride is 0; allowed: 2, 4, 8, 16, 32, 64"},
      {XAttentionPattern{.stride = 1}, "xattention: stride is 1"},
      {XAttentionPattern{.stride = -8}, "xattention: stride is -8"},
      {XAttentionPattern{.stride = 24}, "xattention: stride is 24"},
      {XAttentionPattern{.stride = 128}, "xattention: stride is 128"},
      {XAttentionPattern{.threshold = 0},
       "xattention: threshold is 0; allowed: above 0 to 1"},
      {XAttentionPattern{.threshold = 1.25f}, "xattention: threshold is 1.25"},
      {XAttentionPattern{.threshold = nan}, "xattention: threshold is nan"},
      {XAttentionPattern{.dense_layers = -1},
       "xattention: dense_layers is -1; allowed: 0 or more"},
      {VerticalSlashPattern{.columns = 0},
       "vertical_slash: columns is 0; allowed: 1 or more"},
      {VerticalSlashPattern{.diagonals = 0},
       "vertical_slash: diagonals is 0; allowed: 1 or more"},
      {VerticalSlashPattern{.rows = 0},
       "vertical_slash: rows is 0; allowed: 1 to 64"},
      {VerticalSlashPattern{.rows = 65}, "vertical_slash: rows is 65"},
      {VerticalSlashPattern{.dense_layers = -1},
       "vertical_slash: dense_layers is -1; allowed: 0 or more"},
      {FlexPrefillPattern{.gamma = 0},
       "flex_prefill: gamma is 0; allowed: above 0 to 1"},
      {FlexPrefillPattern{.gamma = 1.5f}, "flex_prefill: gamma is 1.5"},
      {FlexPrefillPattern{.gamma = nan}, "flex_prefill: gamma is nan"},
      {FlexPrefillPattern{.tau = -0.5f},
       "flex_prefill: tau is -0.5; allowed: 0 or more"},
      {FlexPrefillPattern{.tau = nan}, "flex_prefill: tau is nan"},
      {FlexPrefillPattern{.tau = std::numeric_limits<float>::infinity()},
       "flex_prefill: tau is inf"},
      {FlexPrefillPattern{.min_budget_tokens = -1},
       "flex_prefill: min_budget_tokens is -1; allowed: 0 or more"},
      {FlexPrefillPattern{.dense_layers = -1},
       "flex_prefill: dense_layers is -1; allowed: 0 or more"},
      {SimilarityGatedPattern{.similarity = -1.5f},
       "similarity_gated: similarity is -1.5; allowed: -1 to 1"},
      {SimilarityGatedPattern{.similarity = nan},
       "similarity_gated: similarity is nan"},
      {SimilarityGatedPattern{.threshold = 0},
       "similarity_gated: threshold is 0; allowed: above 0 to 1"},
      {SimilarityGatedPattern{.dense_layers = -1},
       "similarity_gated: dense_layers is -1; allowed: 0 or more"},
      {PeakWeightPattern{.stride = 3},
       "peak_weight: stride is 3; allowed: 2, 4, 8, 16, 32, 64"},
      {PeakWeightPattern{.rows = -1},
       "peak_weight: rows is -1; allowed: 0 to 64"},
      {PeakWeightPattern{.rows = 65},
       "peak_weight: rows is 65; allowed: 0 to 64"},
      {PeakWeightPattern{.threshold = nan}, "peak_weight: threshold is nan"},
      {PeakWeightPattern{.threshold = 0},
       "peak_weight: threshold is 0; allowed: above 0 to 1"},
      {PeakWeightPattern{.dense_layers = -1},
       "peak_weight: dense_layers is -1; allowed: 0 or more"},
      {QuestPattern{.budget_tokens = 0},
       "quest: budget_tokens is 0; allowed: 1 or more"},
      {QuestPattern{.sink_tokens = -1},
       "quest: sink_tokens is -1; allowed: 0 or more"},
      {QuestPattern{.window_tokens = 0},
       "quest: window_tokens is 0; allowed: 1 or more"},
      {QuestPattern{.dense_layers = -1},
       "quest: dense_layers is -1; allowed: 0 or more"},
      {PageTopPPattern{.candidate_tokens = 0},
       "page_top_p: candidate_tokens is 0; allowed: 1 or more"},
      {PageTopPPattern{.threshold = nan}, "page_top_p: threshold is nan"},
      {PageTopPPattern{.sink_tokens = -1},
       "page_top_p: sink_tokens is -1; allowed: 0 or more"},
      {PageTopPPattern{.window_tokens = 0},
       "page_top_p: window_tokens is 0; allowed: 1 or more"},
      {PageTopPPattern{.dense_layers = -1},
       "page_top_p: dense_layers is -1; allowed: 0 or more"},
      {QuestPattern{.reuse_steps = 0},
       "quest: reuse_steps is 0; allowed: 1, 2, 4, 8, 16, 32, 64"},
      {QuestPattern{.reuse_steps = -2}, "quest: reuse_steps is -2"},
      {QuestPattern{.reuse_steps = 3}, "quest: reuse_steps is 3"},
      {QuestPattern{.reuse_steps = 128}, "quest: reuse_steps is 128"},
      {PageTopPPattern{.reuse_steps = 65}, "page_top_p: reuse_steps is 65"},
      {MobaPattern{.reuse_steps = 0}, "moba: reuse_steps is 0"},
      {MobaPattern{.block_tokens = 0},
       "moba: block_tokens is 0; allowed: a multiple of 64"},
      {MobaPattern{.block_tokens = -64}, "moba: block_tokens is -64"},
      {MobaPattern{.block_tokens = 100}, "moba: block_tokens is 100"},
      {MobaPattern{.top_k = 0}, "moba: top_k is 0; allowed: 1 or more"},
      {MobaPattern{.dense_layers = -1},
       "moba: dense_layers is -1; allowed: 0 or more"},
      {DeltaPattern{.gamma = 0}, "delta: gamma is 0; allowed: 8, 16, 32, 64"},
      {DeltaPattern{.gamma = 4}, "delta: gamma is 4"},
      {DeltaPattern{.gamma = 48}, "delta: gamma is 48"},
      {DeltaPattern{.gamma = 128}, "delta: gamma is 128"},
      {DeltaPattern{.gamma = std::numeric_limits<int32_t>::min()},
       "delta: gamma is -2147483648"},
      {DeltaPattern{SinkWindowPattern{4, 0}},
       "delta.sink_window: window_tokens is 0; allowed: 1 or more"},
      {DeltaPattern{XAttentionPattern{.threshold = nan}},
       "delta.xattention: threshold is nan"},
      {SkipSoftmaxPattern{.threshold = -0.5f},
       "skip_softmax: threshold is -0.5; allowed: 0 to 1"},
      {SkipSoftmaxPattern{.threshold = 1.5f}, "skip_softmax: threshold is 1.5"},
      {SkipSoftmaxPattern{.threshold = nan}, "skip_softmax: threshold is nan"},
      {SkipSoftmaxPattern{QuestPattern{.budget_tokens = 0}},
       "skip_softmax.quest: budget_tokens is 0; allowed: 1 or more"},
  };
  for (const auto& bad : kCases) {
    const absl::Status status = CheckPattern(bad.pattern);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                testing::StartsWith(bad.message));
  }
}

TEST(PatternSpecTest, StaticPatternsMayBeCutAnywhere) {
  const struct {
    PatternSpec pattern;
    bool is_trained_in;
  } kCases[] = {{DensePattern(), false},        {SlidingWindowPattern(), true},
                {SinkWindowPattern(), false},   {TriShapePattern(), false},
                {StridedPattern(), true},       {FixedPattern(), true},
                {DilatedWindowPattern(), true}, {ChunkedLocalPattern(), true},
                {PrunedPattern(), false}};
  for (const auto& c : kCases) {
    SCOPED_TRACE(PatternName(c.pattern));
    const PatternTraits traits = TraitsOf(c.pattern);
    EXPECT_TRUE(traits.is_selection_causal);
    EXPECT_EQ(traits.chunk_border_tokens, 1);
    EXPECT_EQ(traits.is_trained_in, c.is_trained_in);
    EXPECT_TRUE(traits.is_time_predictable);
    EXPECT_FALSE(SelectionOf(c.pattern).rule.has_value());
  }
}

TEST(PatternSpecTest, PatternsThatChooseByScoresMustBeCutOnBlockBorders) {
  EXPECT_FALSE(SelectionOf(DensePattern()).rule.has_value());
  EXPECT_FALSE(SelectionOf(SlidingWindowPattern{9}).rule.has_value());
  EXPECT_EQ(TraitsOf(SlidingWindowPattern{9}).chunk_border_tokens, 1);
  EXPECT_TRUE(TraitsOf(SlidingWindowPattern{9}).is_trained_in);

  const XAttentionPattern pattern = {16, 0.8f, 3, false};
  const PatternSelection selection = SelectionOf(pattern);
  ASSERT_TRUE(selection.rule.has_value());
  EXPECT_EQ(std::get<AntidiagonalRule>(*selection.rule).stride, 16);
  EXPECT_EQ(std::get<AntidiagonalRule>(*selection.rule).mass, 0.8f);
  EXPECT_EQ(selection.first_layer, 3);
  EXPECT_FALSE(selection.is_last_block_dense);
  const PatternTraits traits = TraitsOf(pattern);
  EXPECT_TRUE(traits.is_selection_causal);
  EXPECT_EQ(traits.chunk_border_tokens, 64);
  EXPECT_FALSE(traits.is_trained_in);
  EXPECT_FALSE(traits.is_time_predictable);
  EXPECT_TRUE(traits.rules_prefill);
  EXPECT_FALSE(traits.rules_decode);
  EXPECT_TRUE(TraitsOf(SlidingWindowPattern{9}).rules_decode);

  const SimilarityGatedPattern similar = {0.5f, 0.8f, 3, false};
  const PatternSelection gated = SelectionOf(similar);
  ASSERT_TRUE(gated.rule.has_value());
  EXPECT_EQ(std::get<SimilarityRule>(*gated.rule).similarity, 0.5f);
  EXPECT_EQ(std::get<SimilarityRule>(*gated.rule).mass, 0.8f);
  EXPECT_EQ(gated.first_layer, 3);
  EXPECT_FALSE(gated.is_last_block_dense);
  EXPECT_TRUE(TraitsOf(similar).is_selection_causal);
  EXPECT_EQ(TraitsOf(similar).chunk_border_tokens, 64);
  EXPECT_FALSE(TraitsOf(similar).is_time_predictable);
  EXPECT_FALSE(TraitsOf(similar).rules_decode);

  const PeakWeightPattern peaks = {16, 5, 0.25f, 3, true};
  const PatternSelection by_peak = SelectionOf(peaks);
  ASSERT_TRUE(by_peak.rule.has_value());
  EXPECT_EQ(std::get<PeakWeightRule>(*by_peak.rule),
            (PeakWeightRule{16, 5, 0.25f}));
  EXPECT_EQ(by_peak.first_layer, 3);
  EXPECT_TRUE(by_peak.is_last_block_dense);
  EXPECT_TRUE(TraitsOf(peaks).is_selection_causal);
  EXPECT_EQ(TraitsOf(peaks).chunk_border_tokens, 64);
  EXPECT_FALSE(TraitsOf(peaks).is_time_predictable);
  EXPECT_FALSE(TraitsOf(peaks).rules_decode);
}

TEST(PatternSpecTest, PromptsOfPatternsThatChooseByTheirEndCannotBeCut) {
  const PatternSelection lines =
      SelectionOf(VerticalSlashPattern{7, 8, 9, 3, false});
  ASSERT_TRUE(lines.rule.has_value());
  EXPECT_EQ(std::get<VerticalSlashRule>(*lines.rule).columns, 7);
  EXPECT_EQ(std::get<VerticalSlashRule>(*lines.rule).diagonals, 8);
  EXPECT_EQ(std::get<VerticalSlashRule>(*lines.rule).rows, 9);
  EXPECT_EQ(lines.first_layer, 3);
  EXPECT_FALSE(lines.is_last_block_dense);
  const auto least_blocks = [](int32_t tokens) {
    const FlexPrefillPattern pattern = {.min_budget_tokens = tokens};
    return std::get<FlexPrefillRule>(*SelectionOf(pattern).rule).least_blocks;
  };
  EXPECT_EQ(least_blocks(0), 0);
  EXPECT_EQ(least_blocks(1), 1);
  EXPECT_EQ(least_blocks(64), 1);
  EXPECT_EQ(least_blocks(65), 2);
  EXPECT_EQ(least_blocks(std::numeric_limits<int32_t>::max()), 1 << 25);
  const PatternSelection flex =
      SelectionOf(FlexPrefillPattern{0.5f, 0.25f, 0, 3, false});
  EXPECT_EQ(std::get<FlexPrefillRule>(*flex.rule).mass, 0.5f);
  EXPECT_EQ(std::get<FlexPrefillRule>(*flex.rule).divergence, 0.25f);
  EXPECT_EQ(flex.first_layer, 3);
  EXPECT_FALSE(flex.is_last_block_dense);
  for (const PatternSpec& pattern : {PatternSpec(VerticalSlashPattern()),
                                     PatternSpec(FlexPrefillPattern())}) {
    const PatternTraits traits = TraitsOf(pattern);
    EXPECT_FALSE(traits.is_selection_causal);
    EXPECT_FALSE(traits.is_trained_in);
    EXPECT_FALSE(traits.is_time_predictable);
    EXPECT_TRUE(traits.rules_prefill);
    EXPECT_FALSE(traits.rules_decode);
  }
}

TEST(PatternSpecTest, DeltaIsItsBaseButForBordersAndCorrection) {
  const XAttentionPattern chosen = {16, 0.8f, 3, false};
  const PatternSpec pattern = DeltaPattern{chosen, 32};
  const PatternSelection selection = SelectionOf(pattern);
  ASSERT_TRUE(selection.rule.has_value());
  EXPECT_EQ(std::get<AntidiagonalRule>(*selection.rule).stride, 16);
  EXPECT_EQ(selection.first_layer, 3);
  EXPECT_FALSE(selection.is_last_block_dense);
  EXPECT_EQ(CorrectionOf(pattern).every_rows, 32);
  EXPECT_EQ(CorrectionOf(pattern).first_position, 0);
  EXPECT_EQ(CorrectionOf(chosen).every_rows, 0);
  EXPECT_FALSE(TraitsOf(pattern).is_time_predictable);
  EXPECT_FALSE(TraitsOf(pattern).rules_decode);

  const int32_t most = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(CorrectionOf(DeltaPattern{SinkWindowPattern{4, 70}}).first_position,
            74);
  EXPECT_EQ(
      CorrectionOf(DeltaPattern{TriShapePattern{most, most}}).first_position,
      2 * int64_t{most});
  for (const DeltaBase& base :
       {DeltaBase(TriShapePattern()), DeltaBase(SinkWindowPattern()),
        DeltaBase(XAttentionPattern()), DeltaBase(SimilarityGatedPattern())}) {
    const PatternTraits traits = TraitsOf(DeltaPattern{base});
    EXPECT_TRUE(traits.is_selection_causal);
    EXPECT_EQ(traits.chunk_border_tokens, 64);
    EXPECT_FALSE(traits.is_trained_in);
    EXPECT_TRUE(traits.rules_prefill);
  }
  EXPECT_TRUE(TraitsOf(DeltaPattern{SinkWindowPattern()}).rules_decode);
  EXPECT_FALSE(TraitsOf(DeltaPattern{TriShapePattern()}).rules_decode);
  for (const DeltaBase& base :
       {DeltaBase(VerticalSlashPattern()), DeltaBase(FlexPrefillPattern())}) {
    EXPECT_FALSE(TraitsOf(DeltaPattern{base}).is_selection_causal);
    EXPECT_TRUE(TraitsOf(DeltaPattern{base}).is_superset);
  }
}

TEST(PatternSpecTest, SkipSoftmaxChoosesAsItsBaseInEveryPhase) {
  const XAttentionPattern chosen = {16, 0.8f, 3, false};
  const PatternSpec pattern = SkipSoftmaxPattern{chosen, 0.01f};
  const PatternSelection selection = SelectionOf(pattern);
  ASSERT_TRUE(selection.rule.has_value());
  EXPECT_EQ(std::get<AntidiagonalRule>(*selection.rule).stride, 16);
  EXPECT_EQ(selection.first_layer, 3);
  EXPECT_EQ(CorrectionOf(pattern).every_rows, 0);
  EXPECT_FALSE(SelectionOf(SkipSoftmaxPattern()).rule.has_value());
  for (const PatternSpec& base : EveryKindOf<SkipSoftmaxBase>()) {
    const PatternTraits traits = TraitsOf(std::visit(
        [](const auto& own) -> PatternSpec {
          if constexpr (std::is_constructible_v<SkipSoftmaxBase,
                                                decltype(own)>) {
            return SkipSoftmaxPattern{own};
          } else {
            return own;
          }
        },
        base));
    EXPECT_EQ(traits.is_selection_causal, TraitsOf(base).is_selection_causal);
    EXPECT_EQ(traits.chunk_border_tokens, 64);
    EXPECT_FALSE(traits.is_trained_in);
    EXPECT_FALSE(traits.is_time_predictable);
    EXPECT_TRUE(traits.is_superset);
    EXPECT_TRUE(traits.rules_prefill);
    EXPECT_TRUE(traits.rules_decode);
  }
}

TEST(PatternSpecTest, OnlySkipSoftmaxSkips) {
  EXPECT_FLOAT_EQ(SkipBelowOf(SkipSoftmaxPattern{DensePattern(), 0.01f}),
                  -4.60517019f);
  EXPECT_EQ(SkipBelowOf(SkipSoftmaxPattern{DensePattern(), 1}), 0);
  EXPECT_EQ(SkipBelowOf(SkipSoftmaxPattern{DensePattern(), 0}), kNoSkip);
  for (const PatternSpec& pattern : EveryPattern()) {
    EXPECT_EQ(SkipBelowOf(pattern) > kNoSkip,
              std::holds_alternative<SkipSoftmaxPattern>(pattern));
  }
}

TEST(PatternSpecTest, PageTopPChoosesOfQuestsBlocks) {
  const PatternSpec pattern = PageTopPPattern{129, 0.5f, 1, 64, 3, 64};
  const PatternSelection selection = SelectionOf(pattern);
  const auto& rule = std::get<CandidateMassRule>(*selection.rule);
  EXPECT_EQ(rule.candidates.blocks, 3);
  EXPECT_EQ(rule.candidates.first_blocks, 1);
  EXPECT_EQ(rule.candidates.last_blocks, 1);
  EXPECT_EQ(rule.mass, 0.5f);
  EXPECT_EQ(selection.reuse_steps, 64);
  EXPECT_EQ(selection.phase, Phase::kDecode);
  EXPECT_EQ(selection.first_layer, 3);
  const PatternTraits traits = TraitsOf(pattern);
  EXPECT_TRUE(traits.is_selection_causal);
  EXPECT_FALSE(traits.is_time_predictable);
  EXPECT_FALSE(traits.rules_prefill);
  EXPECT_TRUE(traits.rules_decode);
}

TEST(PatternSpecTest, MobaChoosesLargerBlocksInBothPhases) {
  const PatternSpec pattern = MobaPattern{192, 4, 3, 8};
  const PatternSelection selection = SelectionOf(pattern);
  const auto& rule = std::get<MeanKeyRule>(*selection.rule);
  EXPECT_EQ(rule.block_pages, 3);
  EXPECT_EQ(rule.blocks, 4);
  EXPECT_EQ(selection.phase, std::nullopt);
  EXPECT_EQ(selection.reuse_steps, 8);
  EXPECT_EQ(selection.first_layer, 3);
  EXPECT_FALSE(selection.is_last_block_dense);
  const PatternTraits traits = TraitsOf(pattern);
  EXPECT_TRUE(traits.is_selection_causal);
  EXPECT_EQ(traits.chunk_border_tokens, 64);
  EXPECT_FALSE(traits.is_trained_in);
  EXPECT_FALSE(traits.is_time_predictable);
  EXPECT_TRUE(traits.is_superset);
  EXPECT_TRUE(traits.rules_prefill);
  EXPECT_TRUE(traits.rules_decode);
}

TEST(PatternSpecTest, QuestChoosesSoManyBlocksForOutputRows) {
  const PatternSpec pattern = QuestPattern{129, 1, 64, 3, 4};
  const PatternSelection selection = SelectionOf(pattern);
  const auto& rule = std::get<PageBoundRule>(*selection.rule);
  EXPECT_EQ(rule.blocks, 3);
  EXPECT_EQ(rule.first_blocks, 1);
  EXPECT_EQ(rule.last_blocks, 1);
  EXPECT_EQ(selection.reuse_steps, 4);
  EXPECT_EQ(selection.phase, Phase::kDecode);
  EXPECT_EQ(selection.first_layer, 3);
  EXPECT_FALSE(selection.is_last_block_dense);
  const PatternTraits traits = TraitsOf(pattern);
  EXPECT_TRUE(traits.is_selection_causal);
  EXPECT_EQ(traits.chunk_border_tokens, 1);
  EXPECT_FALSE(traits.is_trained_in);
  EXPECT_TRUE(traits.is_time_predictable);
  EXPECT_FALSE(traits.rules_prefill);
  EXPECT_TRUE(traits.rules_decode);
}

}  // namespace
}  // namespace sparseserve
