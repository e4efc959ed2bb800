#include "client/load/ramp.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

Ramp Parsed(absl::string_view text) {
  auto ramp = Ramp::Parse(text);
  EXPECT_TRUE(ramp.ok()) << ramp.status();
  return *ramp;
}

TEST(RampTest, IsConstantWithoutPoints) {
  const Ramp ramp = Parsed("2.5");
  EXPECT_EQ(ramp.At(absl::ZeroDuration()), 2.5);
  EXPECT_EQ(ramp.At(absl::Hours(9)), 2.5);
  EXPECT_EQ(ramp.TimeOfArea(5), absl::Seconds(2));
  EXPECT_EQ(ramp.TimeOfValue(2.5, absl::Seconds(3)), absl::Seconds(3));
  EXPECT_EQ(ramp.TimeOfValue(2.6, absl::ZeroDuration()),
            absl::InfiniteDuration());
}

TEST(RampTest, IsLinearBetweenPoints) {
  const Ramp ramp = Parsed("1@10s,3@20s");
  EXPECT_EQ(ramp.At(absl::Seconds(5)), 1);
  EXPECT_EQ(ramp.At(absl::Seconds(15)), 2);
  EXPECT_EQ(ramp.At(absl::Seconds(99)), 3);
  EXPECT_EQ(ramp.Max(), 3);
  EXPECT_EQ(ramp.TimeOfValue(2, absl::ZeroDuration()), absl::Seconds(15));
}

TEST(RampTest, TimeOfAreaInvertsTheIntegral) {
  const Ramp ramp = Parsed("1@10s,3@20s,0@30s");
  // 10 until 10 s, 20 more until 20 s, 15 more until 30 s.
  EXPECT_EQ(ramp.TimeOfArea(4), absl::Seconds(4));
  EXPECT_NEAR(absl::ToDoubleSeconds(ramp.TimeOfArea(30)), 20, 1e-9);
  // 10 + t + t^2 / 10 at 10 s + t: 7.5 + 10 at t = 5.
  EXPECT_NEAR(absl::ToDoubleSeconds(ramp.TimeOfArea(17.5)), 15, 1e-9);
  EXPECT_NEAR(absl::ToDoubleSeconds(ramp.TimeOfArea(45)), 30, 1e-6);
  EXPECT_EQ(ramp.TimeOfArea(45.1), absl::InfiniteDuration());
}

TEST(RampTest, ValuesThatComeBackAreFoundLater) {
  const Ramp ramp = Parsed("4@0s,0@10s,4@20s");
  EXPECT_EQ(ramp.TimeOfValue(2, absl::ZeroDuration()), absl::ZeroDuration());
  EXPECT_EQ(ramp.TimeOfValue(2, absl::Seconds(7)), absl::Seconds(15));
  EXPECT_EQ(ramp.TimeOfValue(2, absl::Seconds(17)), absl::Seconds(17));
}

TEST(RampTest, NamesWhatItCannotRead) {
  for (const char* text : {"", "-1", "nan", "inf", "x", "1@", "1@0s,2", "1@-1s",
                           "1@inf", "1@5s,2@5s", "1@5s,2@4s"}) {
    const auto ramp = Ramp::Parse(text);
    EXPECT_FALSE(ramp.ok()) << text;
  }
  EXPECT_THAT(std::string(Ramp::Parse("1@0s,fast@9s").status().message()),
              HasSubstr("\"fast@9s\""));
}

}  // namespace
}  // namespace sparseserve
