#include "engine/kv/kv_budget.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

// 100 tokens are two pages of 1000 bytes.
KvBudget::Request Request(int64_t bytes, int64_t available) {
  return {.bytes = bytes,
          .page_bytes = 1000,
          .context_tokens = 100,
          .available_bytes = available};
}

TEST(KvBudgetTest, TakesWholePagesOfWhatIsAskedFor) {
  EXPECT_EQ(ChooseKvBudget(Request(2000, 0))->pages, 2);
  EXPECT_EQ(ChooseKvBudget(Request(4999, 0))->pages, 4);
}

TEST(KvBudgetTest, LessThanAContextIsAnErrorThatSaysTheLeast) {
  const auto budget = ChooseKvBudget(Request(1999, 1 << 30));
  EXPECT_TRUE(absl::IsInvalidArgument(budget.status()));
  EXPECT_THAT(std::string(budget.status().message()),
              HasSubstr("needs 2000 bytes"));
}

TEST(KvBudgetTest, DefaultIsSixteenContexts) {
  const auto budget = ChooseKvBudget(Request(0, 1 << 30));
  ASSERT_TRUE(budget.ok()) << budget.status();
  EXPECT_EQ(budget->pages, 32);
  EXPECT_THAT(budget->reason, HasSubstr("16 contexts"));
}

TEST(KvBudgetTest, DefaultIsAtMostAQuarterOfTheMemoryAvailable) {
  const auto budget = ChooseKvBudget(Request(0, 4 * 7500));
  ASSERT_TRUE(budget.ok()) << budget.status();
  EXPECT_EQ(budget->pages, 7);
  EXPECT_THAT(budget->reason, HasSubstr("25 % of the memory"));
}

TEST(KvBudgetTest, ADeviceSaysWhichShareAndHowManyContexts) {
  KvBudget::Request request = Request(0, 10 * 10000);
  request.share = 0.9;
  request.contexts = 4096;
  EXPECT_EQ(ChooseKvBudget(request)->pages, 90);
  request.contexts = 20;
  EXPECT_EQ(ChooseKvBudget(request)->pages, 40);
}

TEST(KvBudgetTest, TooLittleMemoryForTheDefaultIsAnErrorThatSaysTheLeast) {
  const auto budget = ChooseKvBudget(Request(0, 4 * 1999));
  EXPECT_TRUE(absl::IsResourceExhausted(budget.status()));
  EXPECT_THAT(std::string(budget.status().message()),
              HasSubstr("needs 2000 bytes"));
}

}  // namespace
}  // namespace sparseserve
