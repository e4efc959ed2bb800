#include "server/scheduling/caller_quotas.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(CallerQuotasTest, RefusesOneRequestTooMany) {
  CallerQuotas quotas({.max_requests = 2});
  EXPECT_TRUE(quotas.Take("a", 1'000'000));
  EXPECT_TRUE(quotas.Take("a", 1));
  EXPECT_FALSE(quotas.Take("a", 1));
  EXPECT_TRUE(quotas.Take("b", 1));
  quotas.GiveBack("a", 1);
  EXPECT_TRUE(quotas.Take("a", 1));
}

TEST(CallerQuotasTest, RefusesTokensTooMany) {
  CallerQuotas quotas({.max_tokens = 10});
  EXPECT_FALSE(quotas.Take("a", 11));
  EXPECT_TRUE(quotas.Take("a", 6));
  EXPECT_FALSE(quotas.Take("a", 5));
  EXPECT_TRUE(quotas.Take("a", 4));
  quotas.GiveBack("a", 6);
  EXPECT_TRUE(quotas.Take("a", 5));
}

TEST(CallerQuotasTest, TellsBeforehandWhatACallerMayHave) {
  CallerQuotas quotas({.max_requests = 2, .max_tokens = 10});
  EXPECT_TRUE(quotas.Allows("a", 10));
  EXPECT_FALSE(quotas.Allows("a", 11));
  EXPECT_TRUE(quotas.Take("a", 4));
  EXPECT_TRUE(quotas.Allows("a", 6));
  EXPECT_FALSE(quotas.Allows("a", 7));
  EXPECT_TRUE(quotas.Take("a", 1));
  EXPECT_FALSE(quotas.Allows("a", 1));
  EXPECT_TRUE(quotas.Allows("b", 1));
  EXPECT_TRUE(quotas.Allows("", 100));
}

TEST(CallerQuotasTest, LimitsOfItsOwnCountInPlaceOfTheOthers) {
  CallerQuotas quotas({.max_requests = 1});
  const CallerQuotas::Limits two = {.max_requests = 2};
  const CallerQuotas::Limits none = {};
  EXPECT_TRUE(quotas.Take("a", 1, two));
  EXPECT_TRUE(quotas.Allows("a", 1, two));
  EXPECT_FALSE(quotas.Allows("a", 1));
  EXPECT_TRUE(quotas.Take("a", 1, two));
  EXPECT_FALSE(quotas.Take("a", 1, two));
  EXPECT_TRUE(quotas.Take("a", 1, none));
  quotas.GiveBack("a", 1, none);
  quotas.GiveBack("a", 1, two);
  quotas.GiveBack("a", 1, two);
  EXPECT_TRUE(quotas.Take("a", 1));
}

TEST(CallerQuotasTest, NobodysRequestsHaveNoLimit) {
  CallerQuotas quotas({.max_requests = 1, .max_tokens = 1});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(quotas.Take("", 100));
  quotas.GiveBack("", 100);
}

}  // namespace
}  // namespace sparseserve
