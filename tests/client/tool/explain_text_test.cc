#include "client/tool/explain_text.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

v1::ExplainAttentionResponse Explanation() {
  v1::ExplainAttentionResponse explanation;
  explanation.set_model("models/a");
  for (const char* piece : {"The", " \"cat\"", "\x1b[2J"}) {
    explanation.add_token_ids(1);
    explanation.add_pieces(piece);
  }
  explanation.set_sampled_rows(3);
  v1::HeadProfile& local = *explanation.add_heads();
  local.set_head_class(v1::HeadProfile::LOCAL);
  local.set_entropy(1.25);
  local.set_recall(0.5);
  v1::HeadProfile& sink = *explanation.add_heads();
  sink.set_head(1);
  sink.set_head_class(v1::HeadProfile::SINK);
  v1::QueryAttention& query = *explanation.add_queries();
  query.set_position(2);
  v1::QueryAttention::Head& first = *query.add_heads();
  first.add_positions(0);
  first.add_weights(0.75f);
  v1::QueryAttention::Head& second = *query.add_heads();
  second.add_positions(1);
  second.add_weights(1.0f);
  return explanation;
}

TEST(ExplainTextTest, HasARowForEachHead) {
  const std::string text = ExplainText(Explanation());
  EXPECT_THAT(text, HasSubstr("3 tokens, 3 rows sampled"));
  EXPECT_THAT(text, HasSubstr("local 1, sink 1"));
  EXPECT_THAT(text, ContainsRegex("\n    0    0 local +1\\.250 "));
  EXPECT_THAT(text, ContainsRegex("\n    0    1 sink "));
}

TEST(ExplainTextTest, ListsTheHeaviestKeysOfAllHeadsFirst) {
  const std::string text = ExplainText(Explanation());
  EXPECT_THAT(text, HasSubstr("2 \"\\033[2J\" attends"));
  EXPECT_THAT(text, HasSubstr("1 \" \\\"cat\\\"\" 0.5000\n"
                              "              0 \"The\" 0.3750\n"));
}

TEST(ExplainTextTest, SurvivesAReplyThatDoesNotFitTogether) {
  v1::ExplainAttentionResponse explanation = Explanation();
  explanation.clear_pieces();
  explanation.mutable_queries(0)->mutable_heads(0)->add_positions(-5);
  explanation.mutable_heads(0)->set_head_class(
      static_cast<v1::HeadProfile::Class>(77));
  const std::string text = ExplainText(explanation);
  EXPECT_THAT(text, HasSubstr("unknown 1"));
  EXPECT_THAT(text, HasSubstr("2 ? attends"));
}

}  // namespace
}  // namespace sparseserve
