#include "client/tool/top_text.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/tool/sample_report.h"

namespace sparseserve {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

std::string TextOf(const std::string& json, const TopView& view = {}) {
  const auto report = ConsoleReport::Parse(json);
  EXPECT_TRUE(report.ok());
  std::string text;
  for (const StyledLine& line : TopText(*report, view)) {
    absl::StrAppend(&text, line.Render(1000, false), "\n");
  }
  return text;
}

TEST(TopTextTest, ShowsTheFiguresOfTheLastMinute) {
  const std::string text = TextOf(kSampleReport);
  EXPECT_THAT(text, HasSubstr("small  serving  up 2h1m5s\n"
                              "llama, Q4_1, cpu, amx, sparseserve 0.1.0\n"));
  EXPECT_THAT(text, ContainsRegex("first token +56 +230 ms +1.25 s +2.40 s +"
                                  "98.2 % of 56\n"));
  EXPECT_THAT(text, ContainsRegex("between tokens +0 +- +- +- +-\n"));
  EXPECT_THAT(text, ContainsRegex("density +0.394 +-\n"));
  EXPECT_THAT(text,
              ContainsRegex("xattention +75.0 % +0 % +0.957 +0.810 +480\n"));
  EXPECT_THAT(text, Not(HasSubstr("\nquest")));
  EXPECT_THAT(text, ContainsRegex("fast +40 +0 +75.0 % of 4 +demoted\n"));
  EXPECT_THAT(text, HasSubstr("30.0 %: 30 used, 10 cached, 60 free"));
  EXPECT_THAT(text, HasSubstr("weights 90.0 MiB, kv 1.00 GiB, resident"));
  EXPECT_THAT(text, HasSubstr("attention 25.0 %, mlp 75.0 %"));
  EXPECT_THAT(text, HasSubstr("64.0 % hits, 2 preemptions, 7 pages evicted"));
  EXPECT_THAT(text, ContainsRegex("Finished +length 6, stop 50\n"));
  EXPECT_THAT(text, ContainsRegex("Rejected +none\n"));
  EXPECT_THAT(text, HasSubstr("1m1s ago low recall (prefill) x2"));
}

TEST(TopTextTest, ShowsFiguresSinceTheStart) {
  const std::string text = TextOf(kSampleReport, {.since_start = true});
  EXPECT_THAT(text, ContainsRegex("first token +5600 +500 ms +1.00 s"));
  EXPECT_THAT(text, ContainsRegex("Finished +stop 5000\n"));
}

TEST(TopTextTest, PlotsEndWithTheLatest) {
  const std::string text = TextOf(kSampleReport, {.columns = 331});
  // A column a second: of five there are as many blocks.
  EXPECT_THAT(text, HasSubstr("  ▁▃▅█▆\n"));
  EXPECT_THAT(text, ContainsRegex("requests running +3  "));
  EXPECT_THAT(text, ContainsRegex("output tokens/s +41.2  "));
  EXPECT_THAT(text, ContainsRegex("first token p50 +230 ms  "));
}

TEST(TopTextTest, FitsInto80Columns) {
  const auto report = ConsoleReport::Parse(kSampleReport);
  for (const StyledLine& line : TopText(*report, {.columns = 80})) {
    EXPECT_LE(line.width(), 80) << line.Render(1000, false);
  }
}

TEST(TopTextTest, AnEmptyReportHasDashes) {
  const std::string text = TextOf("{}");
  EXPECT_THAT(text, HasSubstr("sparseserve  not ready  up -\n"));
  EXPECT_THAT(text, ContainsRegex("first token +- +- +- +- +-\n"));
  EXPECT_THAT(text, Not(HasSubstr("nan")));
}

TEST(TopTextTest, SaysThatAServerDrains) {
  EXPECT_THAT(TextOf(R"({"now": {"ready": false, "draining": true}})"),
              HasSubstr("  draining  "));
}

}  // namespace
}  // namespace sparseserve
