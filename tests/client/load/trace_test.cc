#include "client/load/trace.h"

#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr char kHeader[] = "arrival_s,prompt_tokens,output_tokens\n";

TEST(TraceTest, ReadsTimesAndLengths) {
  const auto trace = ParseTrace(std::string("# a comment\r\n") + kHeader +
                                    "0.000,374,44\r\n\n4.315,1,2\n",
                                "t.csv");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 2u);
  EXPECT_EQ((*trace)[0].arrival, absl::ZeroDuration());
  EXPECT_EQ((*trace)[0].prompt_tokens, 374);
  EXPECT_EQ((*trace)[1].arrival, absl::Milliseconds(4315));
  EXPECT_EQ((*trace)[1].output_tokens, 2);
}

TEST(TraceTest, NamesLineAndValueOfWhatItCannotRead) {
  struct Case {
    std::string body;
    std::string error;
  };
  for (const Case& c : {
           Case{"0,1\n", "t.csv:2: \"0,1\" has 2 fields, expected 3"},
           Case{"0,1,2,3\n", "t.csv:2: \"0,1,2,3\" has 4 fields"},
           Case{"0,5,5\nsoon,5,5\n", "t.csv:3: arrival_s \"soon\""},
           Case{"-1,5,5\n", "t.csv:2: arrival_s \"-1\""},
           Case{"nan,5,5\n", "t.csv:2: arrival_s \"nan\""},
           Case{"1e300,5,5\n", "t.csv:2: arrival_s \"1e300\""},
           Case{"2,5,5\n\n1,5,5\n", "t.csv:4: arrival_s \"1\" is before the 2"},
           Case{"0,0,5\n", "t.csv:2: prompt_tokens \"0\" is not a whole"},
           Case{"0,5,-3\n", "t.csv:2: output_tokens \"-3\""},
           Case{"0,5,1.5\n", "t.csv:2: output_tokens \"1.5\""},
           Case{"0,99999999,5\n", "t.csv:2: prompt_tokens \"99999999\""},
           Case{"0,5\x1b,5\n", "t.csv:2: prompt_tokens \"5\\x1b\""},
       }) {
    const auto trace = ParseTrace(kHeader + c.body, "t.csv");
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(trace.status().message().substr(0, c.error.size()), c.error);
  }
}

TEST(TraceTest, NeedsAHeaderAndARequest) {
  EXPECT_EQ(ParseTrace("0,1,2\n", "t.csv").status().message(),
            "t.csv:1: expected the header arrival_s,prompt_tokens,"
            "output_tokens, found \"0,1,2\"");
  EXPECT_EQ(ParseTrace(kHeader, "t.csv").status().message(),
            "t.csv has no requests");
  EXPECT_FALSE(ParseTrace("", "t.csv").ok());
}

}  // namespace
}  // namespace sparseserve
