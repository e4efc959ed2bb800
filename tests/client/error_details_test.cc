#include "client/error_details.h"

#include <string>

#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::Optional;
using ::testing::Pair;

constexpr char kPayload[] = "type.googleapis.com/google.rpc.Status";

absl::Status WithDetail(absl::Status status,
                        const google::protobuf::Message& detail) {
  google::rpc::Status details;
  details.add_details()->PackFrom(detail);
  status.SetPayload(kPayload, absl::Cord(details.SerializeAsString()));
  return status;
}

google::rpc::BadRequest Violation(const std::string& field,
                                  const std::string& description) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(field);
  violation->set_description(description);
  return bad_request;
}

TEST(ErrorDetailsTest, ReadsErrorInfo) {
  google::rpc::ErrorInfo info;
  info.set_reason("PROMPT_TOO_LONG");
  info.set_domain("sparseserve");
  (*info.mutable_metadata())["limit"] = "8192";
  const ErrorDetails details =
      DecodeErrorDetails(WithDetail(absl::InvalidArgumentError("long"), info));
  EXPECT_EQ(details.reason, "PROMPT_TOO_LONG");
  EXPECT_EQ(details.domain, "sparseserve");
  EXPECT_THAT(details.metadata, ElementsAre(Pair("limit", "8192")));
}

TEST(ErrorDetailsTest, ReadsRetryDelay) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(2);
  retry.mutable_retry_delay()->set_nanos(500'000'000);
  const ErrorDetails details =
      DecodeErrorDetails(WithDetail(absl::UnavailableError("full"), retry));
  EXPECT_THAT(details.retry_delay, Optional(absl::Milliseconds(2500)));
}

TEST(ErrorDetailsTest, HasNothingToSayAboutOtherStatuses) {
  EXPECT_TRUE(DecodeErrorDetails(absl::OkStatus()).reason.empty());
  absl::Status broken = absl::InternalError("broken");
  broken.SetPayload(kPayload, absl::Cord("\xff\xff"));
  EXPECT_TRUE(DecodeErrorDetails(broken).reason.empty());
}

TEST(ErrorDetailsTest, DescribesTheFieldThatIsWrong) {
  const absl::Status status =
      WithDetail(absl::InvalidArgumentError("the request is wrong"),
                 Violation("options.sampling.top_p", "1.5 is not in (0, 1]"));
  EXPECT_EQ(DescribeError(status),
            "INVALID_ARGUMENT: the request is wrong\n"
            "  options.sampling.top_p: 1.5 is not in (0, 1]");
}

TEST(ErrorDetailsTest, DoesNotRepeatWhatTheMessageSays) {
  const absl::Status status = WithDetail(
      absl::InvalidArgumentError("options.sampling.top_p: must be below 1"),
      Violation("options.sampling.top_p", "must be below 1"));
  EXPECT_EQ(DescribeError(status),
            "INVALID_ARGUMENT: options.sampling.top_p: must be below 1");
}

}  // namespace
}  // namespace sparseserve
