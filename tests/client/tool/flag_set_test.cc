#include "client/tool/flag_set.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;

class FlagSetTest : public ::testing::Test {
 protected:
  const FlagSet flags_{{{"loud", "", "makes noise", &loud_},
                        {"name", "TEXT", "a name", &name_},
                        {"stop_at", "TEXT", "where to stop", &stops_},
                        {"count", "N", "how many", &count_},
                        {"seed", "N", "a seed", &seed_},
                        {"ratio", "X", "a share", &ratio_},
                        {"time", "TIME", "how long", &time_}}};
  bool loud_ = false;
  std::string name_;
  std::vector<std::string> stops_;
  std::optional<int32_t> count_;
  std::optional<int64_t> seed_;
  std::optional<double> ratio_;
  std::optional<absl::Duration> time_;
};

TEST_F(FlagSetTest, FillsTargetsOfEveryType) {
  const auto rest =
      flags_.Parse({"--loud", "--name=a=b", "--stop_at=", "one", "--stop-at",
                    "--", "--count=-7", "--seed=9223372036854775807",
                    "--ratio=.25", "--time=1m30s", "two"});
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_THAT(*rest, ElementsAre("one", "two"));
  EXPECT_TRUE(loud_);
  EXPECT_EQ(name_, "a=b");
  EXPECT_THAT(stops_, ElementsAre("", "--"));
  EXPECT_THAT(count_, Optional(-7));
  EXPECT_THAT(seed_, Optional(9223372036854775807));
  EXPECT_THAT(ratio_, Optional(0.25));
  EXPECT_THAT(time_, Optional(absl::Seconds(90)));
}

TEST_F(FlagSetTest, LeavesTargetsOfAbsentFlagsAlone) {
  const auto rest = flags_.Parse({});
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_THAT(*rest, IsEmpty());
  EXPECT_FALSE(loud_);
  EXPECT_FALSE(count_.has_value());
}

TEST_F(FlagSetTest, TakesNoFlagsAfterTwoDashes) {
  const auto rest = flags_.Parse({"--", "--loud", "-"});
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_THAT(*rest, ElementsAre("--loud", "-"));
  EXPECT_FALSE(loud_);
}

TEST_F(FlagSetTest, RefusesWhatDoesNotFit) {
  for (const std::string argument :
       {"--unknown", "--loud=yes", "--count=2147483648", "--count=", "--seed=x",
        "--ratio=half", "--time=5", "--name"}) {
    const auto rest = flags_.Parse({argument});
    EXPECT_TRUE(absl::IsInvalidArgument(rest.status())) << argument;
    EXPECT_THAT(rest.status().message(),
                HasSubstr(argument.substr(0, argument.find('='))));
  }
}

TEST_F(FlagSetTest, DescribesEveryFlag) {
  const std::string text = flags_.Describe();
  EXPECT_THAT(text, HasSubstr("--loud  "));
  EXPECT_THAT(text, HasSubstr("--time=TIME  "));
  EXPECT_THAT(text, HasSubstr("how long\n"));
}

}  // namespace
}  // namespace sparseserve
