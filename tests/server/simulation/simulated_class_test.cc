#include "server/simulation/simulated_class.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

TEST(SimulatedClassTest, ReadsAllKeys) {
  const auto classes = ParseClasses(
      "chat:share=0.7,ttft=2s,tpot=200ms,total=1m,deadline=2m,on_miss=reject,"
      "priority=-3,prefix_tokens=128;batch");
  ASSERT_TRUE(classes.ok()) << classes.status();
  ASSERT_EQ(classes->size(), 2);
  const SimulatedClass& chat = (*classes)[0];
  EXPECT_EQ(chat.name, "chat");
  EXPECT_EQ(chat.share, 0.7);
  EXPECT_EQ(chat.target.time_to_first_token, absl::Seconds(2));
  EXPECT_EQ(chat.target.time_per_output_token, absl::Milliseconds(200));
  EXPECT_EQ(chat.target.total, absl::Minutes(1));
  EXPECT_EQ(chat.target.on_miss, OnMiss::kReject);
  EXPECT_EQ(chat.deadline, absl::Minutes(2));
  EXPECT_EQ(chat.priority, -3);
  EXPECT_EQ(chat.prefix_tokens, 128);
  const SimulatedClass& batch = (*classes)[1];
  EXPECT_EQ(batch.name, "batch");
  EXPECT_EQ(batch.share, 1);
  EXPECT_FALSE(batch.target.is_named());
}

TEST(SimulatedClassTest, NamesWhatCannotBeRead) {
  const struct {
    const char* text;
    const char* error;
  } kRows[] = {
      {"", "there are no classes"},
      {":share=1", "does not begin with a name"},
      {"a;a", "class a is there twice"},
      {"a:share=0", "class a: \"share=0\": expected a number above 0"},
      {"a:share=nan", "a number above 0"},
      {"a:ttft=-1s", "\"ttft=-1s\": expected a time above 0"},
      {"a:tpot=5", "\"tpot=5\": expected a time"},
      {"a:on_miss=drop", "expected dense, degrade or reject"},
      {"a:priority=101", "expected -100 to 100"},
      {"a:prefix_tokens=-1", "expected 0 to"},
      {"a:colour=red", "expected one of the keys share, ttft"},
  };
  for (const auto& row : kRows) {
    const auto classes = ParseClasses(row.text);
    EXPECT_EQ(classes.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(classes.status().message()), HasSubstr(row.error));
  }
}

}  // namespace
}  // namespace sparseserve
