#include "server/rpc/target_conversion.h"

#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

std::string Errors(const FieldErrors& errors) {
  std::string all;
  for (const FieldViolation& violation : errors.violations()) {
    all += violation.field + " is " + violation.value + ";";
  }
  return all;
}

LatencyTarget Named(absl::Duration first, absl::Duration output) {
  LatencyTarget target;
  target.time_to_first_token = first;
  target.time_per_output_token = output;
  return target;
}

TEST(TargetConversionTest, TakesEveryField) {
  v1::LatencyTarget proto;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "time_to_first_token { nanos: 300000000 }"
      "time_per_output_token { nanos: 50000000 }"
      "total { seconds: 9 } on_miss: REJECT",
      &proto));
  FieldErrors errors;
  const LatencyTarget target = ConvertTarget("t", proto, errors);
  EXPECT_TRUE(errors.empty());
  EXPECT_EQ(target.time_to_first_token, absl::Milliseconds(300));
  EXPECT_EQ(target.time_per_output_token, absl::Milliseconds(50));
  EXPECT_EQ(target.total, absl::Seconds(9));
  EXPECT_EQ(target.on_miss, OnMiss::kReject);
}

TEST(TargetConversionTest, NamesWhatIsOutOfRange) {
  v1::LatencyTarget proto;
  proto.mutable_total()->set_seconds(86'401);
  proto.mutable_time_to_first_token();
  FieldErrors errors;
  ConvertTarget("a.target", proto, errors);
  EXPECT_THAT(Errors(errors), HasSubstr("a.target.total is 24h1s"));
  EXPECT_THAT(Errors(errors), HasSubstr("a.target.time_to_first_token is 0"));
}

TEST(TargetConversionTest, MetadataIsMilliseconds) {
  FieldErrors errors;
  const LatencyTarget target = TargetOfMetadata("1500", "12.5", errors);
  EXPECT_TRUE(errors.empty());
  EXPECT_EQ(target.time_to_first_token, absl::Milliseconds(1500));
  EXPECT_EQ(target.time_per_output_token, absl::Microseconds(12'500));
  EXPECT_FALSE(TargetOfMetadata("", "", errors).is_named());
}

TEST(TargetConversionTest, MetadataThatIsNoTargetIsNamed) {
  for (const char* value : {"0", "-5", "1e3", "soon", " 7", "3600001", "nan",
                            "1.2.3", "99999999999999999999999999999999999"}) {
    FieldErrors errors;
    TargetOfMetadata(value, "", errors);
    EXPECT_THAT(Errors(errors), HasSubstr(kFirstTokenKey)) << value;
  }
  FieldErrors errors;
  TargetOfMetadata("60001", "60001", errors);
  EXPECT_THAT(Errors(errors), HasSubstr(kOutputTokenKey));
  EXPECT_EQ(errors.found(), 1);
}

TEST(TargetConversionTest, FieldsWinOverMetadataAndBothOverDefaults) {
  const absl::Duration inf = absl::InfiniteDuration();
  const auto ms = [](int n) { return absl::Milliseconds(n); };
  DefaultTargets defaults;
  defaults[1] = Named(ms(5), ms(6));
  defaults[1].on_miss = OnMiss::kReject;
  const LatencyTarget none;

  LatencyTarget both =
      SettleTarget(Named(ms(1), inf), Named(ms(2), ms(3)), defaults, 1);
  EXPECT_EQ(both.time_to_first_token, ms(1));
  EXPECT_EQ(both.time_per_output_token, ms(3));
  EXPECT_EQ(both.on_miss, OnMiss::kDense);

  const LatencyTarget of_class = SettleTarget(none, none, defaults, 1);
  EXPECT_EQ(of_class.time_to_first_token, ms(5));
  EXPECT_EQ(of_class.on_miss, OnMiss::kReject);
  EXPECT_FALSE(SettleTarget(none, none, defaults, 0).is_named());
}

}  // namespace
}  // namespace sparseserve
