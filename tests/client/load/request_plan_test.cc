#include "client/load/request_plan.h"

#include <array>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(RequestPlanTest, RequestsFollowSeedAndIndexAlone) {
  const RequestPlan::Options options = {
      .classes = {{.name = "a"}, {.name = "b"}},
      .prompt_tokens = {.least = 1, .most = 1'000'000},
      .seed = 9};
  const RequestPlan plan(options);
  const RequestPlan same(options);
  const PlannedRequest late = plan.Plan(70, absl::Seconds(1));
  for (int i = 0; i < 70; ++i) plan.Plan(i, absl::ZeroDuration());
  EXPECT_EQ(same.Plan(70, absl::Seconds(5)).prompt_tokens, late.prompt_tokens);
  RequestPlan::Options other = options;
  other.seed = 10;
  EXPECT_NE(RequestPlan(other).Plan(70, absl::ZeroDuration()).prompt_tokens,
            late.prompt_tokens);
}

TEST(RequestPlanTest, ClassesGetTheirShares) {
  const RequestPlan plan(
      {.classes = {{.name = "a", .share = 3}, {.name = "b", .share = 1}},
       .cancel_share = 0.1,
       .cancel_after = absl::Seconds(2),
       .seed = 1});
  int first = 0;
  int cancelled = 0;
  for (int i = 0; i < 10'000; ++i) {
    const PlannedRequest request = plan.Plan(i, absl::ZeroDuration());
    first += request.load_class == 0 ? 1 : 0;
    cancelled += request.cancel_after == absl::Seconds(2) ? 1 : 0;
  }
  // Four standard errors.
  EXPECT_NEAR(first, 7'500, 174);
  EXPECT_NEAR(cancelled, 1'000, 120);
}

TEST(RequestPlanTest, LengthsReachBothEnds) {
  const RequestPlan plan({.classes = {{.name = "a"}},
                          .prompt_tokens = {.least = 5, .most = 7},
                          .prefixes = 2});
  std::array<int, 8> lengths = {};
  std::array<int, 2> prefixes = {};
  for (int i = 0; i < 300; ++i) {
    const PlannedRequest request = plan.Plan(i, absl::ZeroDuration());
    ++lengths.at(request.prompt_tokens);
    ++prefixes.at(request.prefix);
    EXPECT_EQ(request.output_tokens, 64);
    EXPECT_EQ(request.cancel_after, absl::InfiniteDuration());
  }
  for (const int length : {5, 6, 7}) EXPECT_GT(lengths[length], 50);
  EXPECT_GT(prefixes[0], 100);
  EXPECT_GT(prefixes[1], 100);
}

TEST(RequestPlanTest, RecordedLengthsComeInTurnUnlessTheClassHasItsOwn) {
  const RequestPlan plan(
      {.classes = {{.name = "a",
                    .output_tokens = LengthRange{.least = 3, .most = 3}}},
       .recorded = {{10, 1}, {20, 2}}});
  for (const int index : {0, 1, 2}) {
    const PlannedRequest request = plan.Plan(index, absl::ZeroDuration());
    EXPECT_EQ(request.prompt_tokens, index == 1 ? 20 : 10);
    EXPECT_EQ(request.output_tokens, 3);
  }
}

}  // namespace
}  // namespace sparseserve
