#include "client/tool/attention_flag.h"

#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::SizeIs;

v1::AttentionChoice Parsed(const std::string& text) {
  auto choice = ParseAttention(text);
  EXPECT_TRUE(choice.ok()) << choice.status();
  return choice.value_or(v1::AttentionChoice());
}

std::string ErrorOf(const std::string& text) {
  const absl::Status status = ParseAttention(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

TEST(ParseAttentionTest, APatternAloneHasNoParameters) {
  const v1::AttentionChoice choice = Parsed("xattention");
  ASSERT_TRUE(choice.pattern().has_xattention());
  EXPECT_EQ(choice.pattern().xattention().ByteSizeLong(), 0);
  EXPECT_TRUE(Parsed("dense").pattern().has_dense());
}

TEST(ParseAttentionTest, EveryTypeOfParameterArrives) {
  const v1::XAttentionPattern pattern =
      Parsed(
          "xattention:stride=16,threshold=0.75,dense_layers=0,"
          "last_block_dense=false")
          .pattern()
          .xattention();
  EXPECT_EQ(pattern.stride(), 16);
  EXPECT_EQ(pattern.threshold(), 0.75f);
  EXPECT_TRUE(pattern.has_dense_layers());
  EXPECT_EQ(pattern.dense_layers(), 0);
  EXPECT_TRUE(pattern.has_last_block_dense());
  EXPECT_FALSE(pattern.last_block_dense());
  EXPECT_EQ(
      Parsed("vertical_slash:columns=9").pattern().vertical_slash().columns(),
      9);
  EXPECT_EQ(Parsed("flex_prefill:tau=0.25").pattern().flex_prefill().tau(),
            0.25f);
  EXPECT_EQ(Parsed("similarity_gated:similarity=-0.5")
                .pattern()
                .similarity_gated()
                .similarity(),
            -0.5f);
  EXPECT_EQ(Parsed("quest:budget_tokens=9").pattern().quest().budget_tokens(),
            9);
  EXPECT_EQ(
      Parsed("page_top_p:threshold=0.5").pattern().page_top_p().threshold(),
      0.5f);
  EXPECT_EQ(Parsed("moba:top_k=5").pattern().moba().top_k(), 5);
  EXPECT_EQ(Parsed("quest:reuse_steps=8").pattern().quest().reuse_steps(), 8);
  EXPECT_EQ(Parsed("sliding_window:window_tokens=-5")
                .pattern()
                .sliding_window()
                .window_tokens(),
            -5);
}

TEST(ParseAttentionTest, ValuesOfEnumsAreGivenByTheirOwnPart) {
  EXPECT_EQ(Parsed("strided:part=local").pattern().strided().part(),
            v1::FACTORIZED_PART_LOCAL);
  EXPECT_EQ(Parsed("fixed:part=SUMMARY").pattern().fixed().part(),
            v1::FACTORIZED_PART_SUMMARY);
  for (const char* value : {"", "far", "unspecified", "1"}) {
    EXPECT_THAT(ErrorOf(std::string("strided:part=") + value),
                HasSubstr("is not part=both|local|summary"));
  }
}

TEST(ParseAttentionTest, ParametersOfAPatternWithinAnotherArrive) {
  const v1::DeltaPattern pattern =
      Parsed("delta:gamma=32,xattention.stride=16,xattention.threshold=0.5")
          .pattern()
          .delta();
  EXPECT_EQ(pattern.gamma(), 32);
  EXPECT_EQ(pattern.xattention().stride(), 16);
  EXPECT_EQ(pattern.xattention().threshold(), 0.5f);
  const v1::DeltaPattern alone = Parsed("delta:sink_window").pattern().delta();
  EXPECT_TRUE(alone.has_sink_window());
  EXPECT_FALSE(alone.has_gamma());
  const v1::SkipSoftmaxPattern skipping =
      Parsed("skip_softmax:threshold=1e-3,xattention.stride=16")
          .pattern()
          .skip_softmax();
  EXPECT_EQ(skipping.threshold(), 1e-3f);
  EXPECT_EQ(skipping.xattention().stride(), 16);
  EXPECT_TRUE(
      Parsed("skip_softmax:dense").pattern().skip_softmax().has_dense());
  EXPECT_THAT(ErrorOf("skip_softmax:pruned"),
              HasSubstr("no parameter \"pruned\"; it has threshold, dense"));
}

TEST(ParseAttentionTest, OfPatternsWithinAnotherOneIsGiven) {
  EXPECT_EQ(ErrorOf("delta:xattention,sink_window"),
            "flag --attention=delta:xattention,sink_window: sink_window beside "
            "xattention");
  EXPECT_THAT(ErrorOf("delta:xattention.strid=8"),
              HasSubstr("no parameter \"strid\"; it has stride, threshold"));
  EXPECT_THAT(ErrorOf("delta:dense"), HasSubstr("no parameter \"dense\""));
  EXPECT_THAT(ErrorOf("delta:xattention=8"),
              HasSubstr("\"xattention=8\" is not "
                        "xattention[.PARAMETER=VALUE]"));
  EXPECT_THAT(ErrorOf("delta:gamma.stride=8"),
              HasSubstr("\"gamma.stride=8\" is not gamma=N"));
  EXPECT_THAT(ErrorOf("delta:xattention."), HasSubstr("no parameter \"\""));
}

TEST(ParseAttentionTest, AnyOtherNameIsAPlans) {
  EXPECT_EQ(Parsed("fast").plan(), "fast");
  EXPECT_EQ(Parsed("pattern").plan(), "pattern");
}

TEST(ParseAttentionTest, WhatThePatternHasNotIsNamed) {
  EXPECT_THAT(ErrorOf("fast:stride=8"), HasSubstr("no pattern \"fast\""));
  EXPECT_EQ(ErrorOf("xattention:strid=8"),
            "flag --attention=xattention:strid=8: no parameter \"strid\"; it "
            "has stride, threshold, dense_layers, last_block_dense");
  EXPECT_THAT(ErrorOf("dense:stride=8"), HasSubstr("it has none"));
  EXPECT_THAT(ErrorOf("xattention:"), HasSubstr("no parameter \"\""));
  EXPECT_THAT(ErrorOf("xattention:stride=8,"), HasSubstr("no parameter \"\""));
}

TEST(ParseAttentionTest, ValuesOfAnotherTypeAreNamed) {
  EXPECT_EQ(ErrorOf("xattention:stride=8.5"),
            "flag --attention=xattention:stride=8.5: \"stride=8.5\" is not "
            "stride=N");
  for (const char* text : {"stride", "stride=", "stride=3000000000",
                           "threshold=much", "last_block_dense=2"}) {
    EXPECT_THAT(ErrorOf(std::string("xattention:") + text),
                HasSubstr(std::string("\"") + text + "\" is not "));
  }
}

// A parameter of a type that SetParameter() lacks would be refused always.
TEST(ParseAttentionTest, EveryParameterOfEveryPatternCanBeGiven) {
  const auto& arms =
      *v1::AttentionPattern::descriptor()->FindOneofByName("pattern");
  for (int i = 0; i < arms.field_count(); ++i) {
    const auto& type = *arms.field(i)->message_type();
    for (int p = 0; p < type.field_count(); ++p) {
      const auto& parameter = *type.field(p);
      const std::string text = arms.field(i)->name() + ":" + parameter.name() +
                               (parameter.message_type() ? ""
                                : parameter.enum_type()  ? "=both"
                                                         : "=1");
      EXPECT_TRUE(ParseAttention(text).ok()) << text;
    }
  }
}

TEST(DescribePatternsTest, LinesAreShort) {
  const std::vector<std::string> lines =
      absl::StrSplit(DescribePatterns(), '\n');
  EXPECT_THAT(lines, Each(SizeIs(::testing::Le(51))));
  EXPECT_THAT(DescribePatterns(), HasSubstr("dense\n"));
}

}  // namespace
}  // namespace sparseserve
