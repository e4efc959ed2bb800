#include "server/rpc/pattern_to_proto.h"

#include <string>
#include <vector>

#include "engine/pattern/every_pattern.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/attention_conversion.h"
#include "server/rpc/field_errors.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

PatternSpec ThereAndBack(const PatternSpec& pattern) {
  FieldErrors errors;
  const auto back = ConvertPattern("p", ToProto(pattern), errors);
  EXPECT_TRUE(errors.empty()) << PatternName(pattern) << errors.ToStatus();
  return back.value_or(DensePattern());
}

TEST(PatternToProtoTest, EveryKindComesBack) {
  for (const PatternSpec& pattern : EveryPattern()) {
    EXPECT_EQ(ThereAndBack(pattern), pattern) << PatternName(pattern);
  }
  for (const PatternSpec& base : EveryKindOf<DeltaBase>()) {
    std::visit(
        [](const auto& own) {
          if constexpr (std::is_constructible_v<DeltaBase, decltype(own)>) {
            const PatternSpec pattern = DeltaPattern{own, 32};
            EXPECT_EQ(ThereAndBack(pattern), pattern);
          }
        },
        base);
  }
  for (const PatternSpec& base : EveryKindOf<SkipSoftmaxBase>()) {
    std::visit(
        [](const auto& own) {
          if constexpr (std::is_constructible_v<SkipSoftmaxBase,
                                                decltype(own)>) {
            const PatternSpec pattern = SkipSoftmaxPattern{own, 0.5f};
            EXPECT_EQ(ThereAndBack(pattern), pattern);
          }
        },
        base);
  }
}

TEST(PatternToProtoTest, EveryParameterComesBack) {
  const std::vector<PatternSpec> patterns = {
      SlidingWindowPattern{7},
      SinkWindowPattern{0, 9},
      TriShapePattern{1, 2, 3},
      StridedPattern{9, FactorizedPart::kLocal},
      FixedPattern{9, 2, 3, FactorizedPart::kSummary},
      DilatedWindowPattern{3, 9},
      ChunkedLocalPattern{9},
      XAttentionPattern{16, 0.5f, 0, false},
      VerticalSlashPattern{5, 6, 7, 0, false},
      FlexPrefillPattern{0.5f, 0.25f, 7, 0, false},
      SimilarityGatedPattern{0.5f, 0.25f, 0, false},
      PeakWeightPattern{4, 0, 0.25f, 3, true},
      QuestPattern{5, 0, 6, 0, 4},
      PageTopPPattern{5, 0.5f, 0, 6, 0, 4},
      MobaPattern{64, 5, 0, 4},
      DeltaPattern{XAttentionPattern{16, 0.5f, 0, false}, 8},
      SkipSoftmaxPattern{PeakWeightPattern{4, 0, 0.25f, 3, true}, 0.5f}};
  for (const PatternSpec& pattern : patterns) {
    EXPECT_EQ(ThereAndBack(pattern), pattern) << PatternName(pattern);
  }
}

TEST(PatternToProtoTest, LayersWhoseHeadsAgreeShareARule) {
  const PatternSpec near = SinkWindowPattern{4, 64};
  const auto map =
      PatternMap::Create({3, 2}, {DensePattern(), near}, {0, 1, 1, 1, 0, 1});
  ASSERT_TRUE(map.ok()) << map.status();
  const v1::PatternMap proto = ToProto(*map);
  ASSERT_EQ(proto.rules_size(), 2);
  EXPECT_THAT(proto.rules(0).layers(), ElementsAre(1));
  EXPECT_THAT(proto.rules(0).kv_heads(), ElementsAre());
  EXPECT_THAT(proto.rules(1).layers(), ElementsAre(0, 2));
  EXPECT_THAT(proto.rules(1).kv_heads(), ElementsAre(1));
}

TEST(PatternToProtoTest, AMapOfDenseHeadsHasARule) {
  const auto map = PatternMap::Create({1, 2}, {DensePattern()}, {0, 0});
  ASSERT_TRUE(map.ok()) << map.status();
  FieldErrors errors;
  EXPECT_EQ(ConvertMap("m", ToProto(*map), errors).size(), 1);
  EXPECT_TRUE(errors.empty()) << errors.ToStatus();
}

}  // namespace
}  // namespace sparseserve
