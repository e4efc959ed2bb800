#include "server/simulation/trace.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

TEST(TraceTest, ReadsTimesAndLengths) {
  const auto trace = ParseTrace(
      "# where from\n\narrival_s,prompt_tokens,output_tokens\r\n"
      "0.0,374,44\r\n1.25,16777216,1\n",
      "t.csv");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 2);
  EXPECT_EQ((*trace)[0].arrival, absl::ZeroDuration());
  EXPECT_EQ((*trace)[0].prompt_tokens, 374);
  EXPECT_EQ((*trace)[0].output_tokens, 44);
  EXPECT_EQ((*trace)[1].arrival, absl::Milliseconds(1250));
  EXPECT_EQ((*trace)[1].prompt_tokens, 16777216);
}

TEST(TraceTest, SaysInWhichLineWhatIsWrong) {
  const struct {
    const char* lines;
    const char* error;
  } kRows[] = {
      {"", "t.csv has no requests"},
      {"arrival_s,prompt_tokens,output_tokens\n", "t.csv has no requests"},
      {"1,2,3\n", "t.csv:1: expected the header arrival_s,"},
      {"arrival_s,prompt_tokens,output_tokens\n1,2\n", "t.csv:2: \"1,2\" is"},
      {"arrival_s,prompt_tokens,output_tokens\n1,2,3,4\n", "t.csv:2: "},
      {"arrival_s,prompt_tokens,output_tokens\n\n-1,2,3\n", "t.csv:3: "},
      {"arrival_s,prompt_tokens,output_tokens\nnan,2,3\n", "t.csv:2: "},
      {"arrival_s,prompt_tokens,output_tokens\n1,0,3\n", "t.csv:2: "},
      {"arrival_s,prompt_tokens,output_tokens\n1,2,16777217\n", "t.csv:2: "},
      {"arrival_s,prompt_tokens,output_tokens\n2,2,3\n1,2,3\n",
       "t.csv:3: arrival_s 1 is before the 2 of"},
  };
  for (const auto& row : kRows) {
    const auto trace = ParseTrace(row.lines, "t.csv");
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr(row.error));
  }
}

}  // namespace
}  // namespace sparseserve
