#include "client/load/load_class.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

TEST(LoadClassTest, ANameAloneAsksForNothing) {
  const auto read = ParseLoadClass("batch");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->name, "batch");
  EXPECT_EQ(read->share, 1);
  EXPECT_FALSE(read->HasTargets());
  EXPECT_FALSE(read->Target().has_value());
}

TEST(LoadClassTest, ReadsEveryKey) {
  const auto read = ParseLoadClass(
      "chat:share=0.7,ttft=300ms,tpot=50.5ms,total=2s,on_miss=reject,"
      "deadline=5s,priority=-2,plan=sparse,prompt_tokens=8..16,"
      "output_tokens=4");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->share, 0.7);
  EXPECT_EQ(read->deadline, absl::Seconds(5));
  EXPECT_EQ(read->priority, -2);
  EXPECT_EQ(read->plan, "sparse");
  EXPECT_EQ(read->prompt_tokens->least, 8);
  EXPECT_EQ(read->prompt_tokens->most, 16);
  EXPECT_EQ(read->output_tokens->most, 4);
  const auto target = read->Target();
  ASSERT_TRUE(target.has_value());
  EXPECT_EQ(target->time_to_first_token().nanos(), 300'000'000);
  EXPECT_EQ(target->time_per_output_token().nanos(), 50'500'000);
  EXPECT_EQ(target->total().seconds(), 2);
  EXPECT_EQ(target->on_miss(), v1::LatencyTarget::REJECT);
}

TEST(LoadClassTest, NamesWhatItCannotRead) {
  struct Case {
    const char* text;
    const char* error;
  };
  for (const Case& c : {
           Case{"", "does not begin with a class's name"},
           Case{"two words", "does not begin with a class's name"},
           Case{"caf\xe9", "does not begin with a class's name"},
           Case{":share=1", "does not begin with a class's name"},
           Case{"a:share=0", "class a: \"share=0\": expected a number above 0"},
           Case{"a:share=inf", "\"share=inf\""},
           Case{"a:ttft=300", "\"ttft=300\": expected a time above 0"},
           Case{"a:ttft=-1s", "\"ttft=-1s\""},
           Case{"a:on_miss=hope", "\"on_miss=hope\": expected dense"},
           Case{"a:priority=high", "\"priority=high\""},
           Case{"a:plan=", "\"plan=\""},
           Case{"a:prompt_tokens=9..8", "\"prompt_tokens=9..8\""},
           Case{"a:output_tokens=0", "\"output_tokens=0\""},
           Case{"a:colour=red", "\"colour=red\": expected one of the keys"},
           Case{"a:ttft=1s,", "\"\": expected one of the keys"},
       }) {
    const auto read = ParseLoadClass(c.text);
    EXPECT_FALSE(read.ok()) << c.text;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(c.error));
  }
}

TEST(LengthRangeTest, ReadsOneOrTwoEnds) {
  EXPECT_EQ(ParseLengthRange("7")->least, 7);
  EXPECT_EQ(ParseLengthRange("7")->most, 7);
  EXPECT_EQ(ParseLengthRange("7..9")->most, 9);
  for (const char* text :
       {"", "..", "7..", "..7", "x", "99999999", "1..2..3"}) {
    EXPECT_FALSE(ParseLengthRange(text).ok()) << text;
  }
}

}  // namespace
}  // namespace sparseserve
