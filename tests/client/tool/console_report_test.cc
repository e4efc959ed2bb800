#include "client/tool/console_report.h"

#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ConsoleReport Parsed(const std::string& json) {
  auto report = ConsoleReport::Parse(json);
  EXPECT_TRUE(report.ok()) << report.status();
  return *std::move(report);
}

TEST(ConsoleReportTest, FindsWhatIsThere) {
  const ConsoleReport report = Parsed(
      R"({"a": {"b": 1.5, "c": "text", "d": true}, "l": [1, null, 3],
          "o": [{"x": 1}, {"x": 2}]})");
  EXPECT_EQ(report.Number({"a", "b"}), 1.5);
  EXPECT_EQ(report.Text({"a", "c"}), "text");
  EXPECT_TRUE(report.IsTrue({"a", "d"}));
  EXPECT_THAT(report.Members({"a"}), ElementsAre("b", "c", "d"));
  const auto numbers = report.Numbers({"l"});
  ASSERT_EQ(numbers.size(), 3u);
  EXPECT_EQ(numbers[0], 1);
  EXPECT_TRUE(std::isnan(numbers[1]));
  ASSERT_EQ(report.Objects({"o"}).size(), 2u);
  EXPECT_EQ(report.Objects({"o"})[1].Number({"x"}), 2);
}

TEST(ConsoleReportTest, WhatIsNotThereReadsAsNotMeasured) {
  const ConsoleReport report =
      Parsed(R"({"a": {"n": null, "t": "text"}, "l": "no list"})");
  EXPECT_TRUE(std::isnan(report.Number({"a", "n"})));
  EXPECT_TRUE(std::isnan(report.Number({"a", "t"})));
  EXPECT_TRUE(std::isnan(report.Number({"a", "t", "deeper"})));
  EXPECT_TRUE(std::isnan(report.Number({"b", "c"})));
  EXPECT_TRUE(std::isnan(report.Number({"a"})));
  EXPECT_EQ(report.Text({"a", "n"}), "");
  EXPECT_FALSE(report.IsTrue({"a", "t"}));
  EXPECT_THAT(report.Members({"l"}), IsEmpty());
  EXPECT_THAT(report.Numbers({"l"}), IsEmpty());
  EXPECT_THAT(report.Objects({"a"}), IsEmpty());
}

TEST(ConsoleReportTest, RefusesWhatIsNoObject) {
  for (const std::string json :
       {"", "[]", "1", "{", "<html>", "{\"a\": 1e999", "\xff"}) {
    EXPECT_EQ(ConsoleReport::Parse(json).status().code(),
              absl::StatusCode::kInvalidArgument)
        << json;
  }
  const std::string deep(100'000, '[');
  EXPECT_FALSE(ConsoleReport::Parse("{\"a\":" + deep).ok());
}

}  // namespace
}  // namespace sparseserve
