#include "client/tool/report_text.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What the report says of attention: plan, then patterns and shares.
v1::GenerationReport Report(const std::string& plan) {
  v1::GenerationReport report;
  report.mutable_attention()->set_plan(plan);
  report.mutable_attention()->set_prefill_density(0.5);
  return report;
}

void AddPattern(const std::string& name, double share,
                v1::GenerationReport& report) {
  v1::PatternShare& pattern = *report.mutable_attention()->add_patterns();
  pattern.set_pattern(name);
  pattern.set_share(share);
}

TEST(ReportTextTest, APlanOfOnePatternOfItsNameIsNamedOnce) {
  v1::GenerationReport report = Report("dense");
  AddPattern("dense", 1, report);
  report.mutable_attention()->set_recall_estimate(1);
  EXPECT_THAT(
      ReportText(report),
      HasSubstr("\nattention  dense, density 0.500 in prefill; recall 1.0000"));
}

TEST(ReportTextTest, PatternsAreListedWithTheirShares) {
  v1::GenerationReport report = Report("");
  AddPattern("xattention", 28.0 / 30, report);
  AddPattern("dense", 2.0 / 30, report);
  report.mutable_attention()->set_decode_density(1);
  const std::string text = ReportText(report);
  EXPECT_THAT(text,
              HasSubstr("\nattention  xattention 93 %, dense 7 %, density "
                        "0.500 in prefill, 1.000 in decode\n"));
  EXPECT_THAT(text, Not(HasSubstr("recall")));
}

TEST(ReportTextTest, APlansNameStandsBeforeItsPatterns) {
  v1::GenerationReport report = Report("fast");
  AddPattern("xattention", 1, report);
  EXPECT_THAT(ReportText(report),
              HasSubstr("\nattention  fast: xattention, density"));
}

TEST(ReportTextTest, AServerThatNamesNoPatternsHasItsPlanNamed) {
  EXPECT_THAT(ReportText(Report("dense")),
              HasSubstr("\nattention  dense, density"));
}

}  // namespace
}  // namespace sparseserve
