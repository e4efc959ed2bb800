#include "server/rpc/status_details.h"

#include <string>
#include <vector>

#include "engine/base/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/utf8_text.h"
#include "tests/server/rpc/status_parts.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using testing::PartsOf;
using testing::StatusParts;
using ::testing::UnorderedElementsAre;

TEST(StatusDetailsTest, OkHasNoDetails) {
  const grpc::Status status = ToGrpcStatus(absl::OkStatus(), "id");
  EXPECT_TRUE(status.ok());
  EXPECT_THAT(status.error_details(), IsEmpty());
}

TEST(StatusDetailsTest, InvalidFieldsNamesEachFieldItsValueAndItsRange) {
  FieldErrors errors;
  errors.CheckRange("options.sampling.top_k", int64_t{-1}, 0, 10);
  errors.CheckRange("options.sampling.min_p", 1.5, 0.0, 1.0);
  const StatusParts parts = PartsOf(ToGrpcStatus(errors.ToStatus(), "id-1"));
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(parts.reason, "INVALID_FIELD");
  EXPECT_EQ(parts.domain, kErrorDomain);
  EXPECT_EQ(parts.message,
            "options.sampling.top_k is -1, must be from 0 to 10; and 1 more");
  EXPECT_THAT(parts.metadata,
              UnorderedElementsAre(
                  Pair("field", "options.sampling.top_k"), Pair("value", "-1"),
                  Pair("requirement", "from 0 to 10"), Pair("more", "1")));
  EXPECT_THAT(parts.fields,
              ElementsAre("options.sampling.top_k", "options.sampling.min_p"));
  EXPECT_THAT(parts.descriptions, ElementsAre("is -1, must be from 0 to 10",
                                              "is 1.5, must be from 0 to 1"));
  EXPECT_EQ(parts.request_id, "id-1");
  EXPECT_FALSE(parts.retry.has_value());
}

TEST(StatusDetailsTest, MissingValuesAreLeftOut) {
  FieldErrors errors;
  errors.Add("options", "", "given");
  const StatusParts parts = PartsOf(errors.ToStatus());
  EXPECT_EQ(parts.message, "options must be given");
  EXPECT_EQ(parts.metadata.count("value"), 0);
}

TEST(StatusDetailsTest, ManyViolationsStayWithinTheTrailerLimit) {
  FieldErrors errors;
  for (int i = 0; i < 100'000; ++i) {
    errors.Add(StrCat("options.token_ids.ids[", i, "]", std::string(300, 'x')),
               std::string(5'000, 'y'), std::string(900, 'z'));
  }
  const grpc::Status status =
      ToGrpcStatus(errors.ToStatus(), std::string(128, 'i'));
  EXPECT_LE(status.error_details().size(), kMaxDetailBytes + 1024);
  // As it travels: base64 of the details beside the message.
  EXPECT_LT(status.error_details().size() * 4 / 3 +
                status.error_message().size() + 128,
            8 * 1024);
  const StatusParts parts = PartsOf(status);
  EXPECT_FALSE(parts.fields.empty());
  EXPECT_EQ(parts.metadata.at("more"), "99999");
}

TEST(StatusDetailsTest, QueueFullAsksToRetryLater) {
  const absl::Status status = QueueFull(256, std::nullopt);
  const StatusParts parts = PartsOf(status);
  EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(parts.reason, "QUEUE_FULL");
  EXPECT_THAT(parts.metadata, ElementsAre(Pair("waiting", "256")));
  ASSERT_TRUE(parts.retry.has_value());
  EXPECT_EQ(parts.retry->retry_delay().nanos(), 200'000'000);
  EXPECT_EQ(RetryDelayOf(status), absl::Milliseconds(200));
  EXPECT_EQ(RejectReasonOf(status), RejectReason::kQueueFull);
}

TEST(StatusDetailsTest, DrainingAsksToRetryElsewhereAtOnce) {
  const absl::Status status = Draining();
  const StatusParts parts = PartsOf(status);
  EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(parts.reason, "DRAINING");
  ASSERT_TRUE(parts.retry.has_value());
  EXPECT_EQ(parts.retry->retry_delay().nanos(), 0);
  EXPECT_EQ(RetryDelayOf(status), absl::ZeroDuration());
  EXPECT_EQ(RejectReasonOf(status), RejectReason::kDraining);
}

// A request that the device's failure met in the queue may run elsewhere; one
// that was running may be what broke the device.
TEST(StatusDetailsTest, OnlyWhatIsUnavailableAsksToRetry) {
  const ErrorDetails details = {.reason = ErrorReason::kDeviceFailed};
  const absl::Status waited =
      WithDetails(absl::UnavailableError("the device failed"), details);
  const absl::Status ran =
      WithDetails(absl::InternalError("the device failed"), details);
  EXPECT_EQ(RetryDelayOf(waited), absl::ZeroDuration());
  EXPECT_TRUE(PartsOf(waited).retry.has_value());
  EXPECT_EQ(RetryDelayOf(ran), std::nullopt);
  EXPECT_FALSE(PartsOf(ran).retry.has_value());
  EXPECT_EQ(PartsOf(ran).reason, "DEVICE_FAILED");
}

// What a caller reads in ErrorInfo decides nothing here.
TEST(StatusDetailsTest, AMessageThatNamesAReasonHasNone) {
  const absl::Status status = absl::UnavailableError("QUEUE_FULL");
  EXPECT_EQ(RetryDelayOf(status), std::nullopt);
  EXPECT_EQ(RejectReasonOf(status), RejectReason::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "UNAVAILABLE");
}

TEST(StatusDetailsTest, PromptTooLongSaysHowLongAndTheLimit) {
  const absl::Status status = PromptTooLong("options.text", 70, 64, "bytes");
  const StatusParts parts = PartsOf(status);
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(parts.reason, "PROMPT_TOO_LONG");
  EXPECT_THAT(
      parts.metadata,
      UnorderedElementsAre(Pair("field", "options.text"), Pair("size", "70"),
                           Pair("limit", "64"), Pair("unit", "bytes")));
  EXPECT_THAT(parts.fields, ElementsAre("options.text"));
  EXPECT_EQ(RejectReasonOf(status), RejectReason::kPromptTooLong);
  EXPECT_EQ(RetryDelayOf(status), std::nullopt);
}

TEST(StatusDetailsTest, ModelNotFoundNamesTheResource) {
  const StatusParts parts = PartsOf(ModelNotFound("models/other"));
  EXPECT_EQ(parts.code, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(parts.reason, "MODEL_NOT_FOUND");
  ASSERT_TRUE(parts.resource.has_value());
  EXPECT_EQ(parts.resource->resource_type(), "sparseserve.v1.Model");
  EXPECT_EQ(parts.resource->resource_name(), "models/other");
}

TEST(StatusDetailsTest, PatternUnsupportedNamesPatternAndModel) {
  const StatusParts parts =
      PartsOf(PatternUnsupported("spiral", "models/a", "nobody knows it"));
  EXPECT_EQ(parts.code, grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(parts.reason, "PATTERN_UNSUPPORTED");
  EXPECT_EQ(parts.message,
            "attention pattern spiral is not available for models/a: nobody "
            "knows it");
  EXPECT_THAT(
      parts.metadata,
      UnorderedElementsAre(Pair("pattern", "spiral"), Pair("model", "models/a"),
                           Pair("cause", "nobody knows it")));
}

TEST(StatusDetailsTest, PlanNotFoundNamesThePlanAsAResource) {
  const StatusParts parts = PartsOf(PlanNotFound("fast", "models/a"));
  EXPECT_EQ(parts.code, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(parts.reason, "PLAN_NOT_FOUND");
  EXPECT_EQ(parts.message, "models/a has no attention plan fast");
  EXPECT_THAT(parts.metadata, UnorderedElementsAre(Pair("plan", "fast"),
                                                   Pair("model", "models/a")));
  EXPECT_EQ(parts.resource->resource_type(), "sparseserve.v1.AttentionPlan");
  EXPECT_EQ(parts.resource->resource_name(), "fast");
}

TEST(StatusDetailsTest, AStatusWithoutDetailsGetsItsCodeAsReason) {
  const StatusParts parts =
      PartsOf(absl::InvalidArgumentError("bad byte at 3"));
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(parts.reason, "INVALID_ARGUMENT");
  EXPECT_EQ(parts.domain, kErrorDomain);
}

TEST(StatusDetailsTest, LongMessagesAreCutAtACharacter) {
  std::string message;
  for (int i = 0; i < 2'000; ++i) message += "\xE2\x82\xAC";
  const StatusParts parts = PartsOf(absl::InternalError(message));
  EXPECT_LE(parts.message.size(), 512);
  EXPECT_TRUE(IsUtf8(parts.message));
  EXPECT_THAT(parts.message, HasSubstr("..."));
}

TEST(ExcerptTest, KeepsShortTextAndReplacesControlCharacters) {
  EXPECT_EQ(Excerpt("abc", 10), "abc");
  EXPECT_EQ(Excerpt("a\nb\x7F", 10), "a?b?");
  EXPECT_EQ(Excerpt("0123456789", 10), "0123456789");
  EXPECT_EQ(Excerpt("0123456789A", 10), "0123456...");
}

}  // namespace
}  // namespace sparseserve
