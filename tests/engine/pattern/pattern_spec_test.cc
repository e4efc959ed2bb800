#include "engine/pattern/pattern_spec.h"

#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/pattern/every_pattern.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(PatternSpecTest, NamesAreThoseOfTheApi) {
  EXPECT_EQ(PatternName(DensePattern()), "dense");
  EXPECT_EQ(PatternName(SlidingWindowPattern{7}), "sliding_window");
  EXPECT_EQ(PatternName(XAttentionPattern()), "xattention");
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
  EXPECT_EQ(CheckPattern(DensePattern()), absl::OkStatus());
  EXPECT_EQ(CheckPattern(SlidingWindowPattern()), absl::OkStatus());
  EXPECT_EQ(CheckPattern(XAttentionPattern()), absl::OkStatus());
  for (const int stride : {2, 64}) {
    EXPECT_EQ(CheckPattern(XAttentionPattern{
                  .stride = stride, .threshold = 1, .dense_layers = 0}),
              absl::OkStatus());
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
  };
  for (const auto& bad : kCases) {
    const absl::Status status = CheckPattern(bad.pattern);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                testing::StartsWith(bad.message));
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
}

}  // namespace
}  // namespace sparseserve
