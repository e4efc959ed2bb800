#include "server/rpc/text_message.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparseserve/v1/attention_pattern.pb.h"

namespace sparseserve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ParseTextTest, ReadsAMessage) {
  v1::AttentionPattern pattern;
  const auto status = ParseText("quest { budget_tokens: 64 }", "f", pattern);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(pattern.quest().budget_tokens(), 64);
}

TEST(ParseTextTest, NamesThePlaceOfWhatItCannotRead) {
  v1::AttentionPattern pattern;
  const auto status = ParseText("quest {\n  budget: 64\n}", "f.txt", pattern);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("f.txt:2:"), HasSubstr("budget")));
}

}  // namespace
}  // namespace sparseserve
