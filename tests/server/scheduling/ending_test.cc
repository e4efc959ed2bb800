#include "server/scheduling/ending.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

struct Row {
  Ending ending;
  Progress progress;
  absl::StatusCode code;
  const char* reason;
  FinishOutcome outcome;
  std::optional<CancelCause> cause;
  CancelStage stage;  // if there is a cause
};

const Row kRows[] = {
    {Ending::kCancelled, Progress::kWaiting, absl::StatusCode::kCancelled,
     "CANCELLED", FinishOutcome::kCancelled, CancelCause::kClient,
     CancelStage::kQueue},
    {Ending::kCancelled, Progress::kPrefill, absl::StatusCode::kCancelled,
     "CANCELLED", FinishOutcome::kCancelled, CancelCause::kClient,
     CancelStage::kPrefill},
    {Ending::kDeadline, Progress::kWaiting, absl::StatusCode::kDeadlineExceeded,
     "DEADLINE_IN_QUEUE", FinishOutcome::kDeadline, CancelCause::kDeadline,
     CancelStage::kQueue},
    {Ending::kDeadline, Progress::kPrefill, absl::StatusCode::kDeadlineExceeded,
     "DEADLINE_EXPIRED", FinishOutcome::kDeadline, CancelCause::kDeadline,
     CancelStage::kPrefill},
    {Ending::kDeadline, Progress::kDecode, absl::StatusCode::kDeadlineExceeded,
     "DEADLINE_EXPIRED", FinishOutcome::kDeadline, CancelCause::kDeadline,
     CancelStage::kDecode},
    {Ending::kSlowConsumer, Progress::kDecode, absl::StatusCode::kCancelled,
     "SLOW_CONSUMER", FinishOutcome::kCancelled, CancelCause::kSlowConsumer,
     CancelStage::kWrite},
    {Ending::kDraining, Progress::kWaiting, absl::StatusCode::kUnavailable,
     "DRAINING", FinishOutcome::kCancelled, CancelCause::kDrain,
     CancelStage::kQueue},
    {Ending::kDraining, Progress::kDecode, absl::StatusCode::kUnavailable,
     "DRAINING", FinishOutcome::kCancelled, CancelCause::kDrain,
     CancelStage::kDecode},
    {Ending::kNumericFault,
     Progress::kDecode,
     absl::StatusCode::kInternal,
     "NUMERIC_FAULT",
     FinishOutcome::kError,
     std::nullopt,
     {}},
    {Ending::kDeviceFailed,
     Progress::kDecode,
     absl::StatusCode::kInternal,
     "DEVICE_FAILED",
     FinishOutcome::kError,
     std::nullopt,
     {}},
    {Ending::kDeviceFailed,
     Progress::kWaiting,
     absl::StatusCode::kUnavailable,
     "DEVICE_FAILED",
     FinishOutcome::kError,
     std::nullopt,
     {}},
};

TEST(EndingTest, TellsCallerAndMetricsWhy) {
  for (const Row& row : kRows) {
    const Failure failure = FailureOf(row.ending, row.progress);
    SCOPED_TRACE(failure.status.ToString());
    EXPECT_EQ(failure.status.code(), row.code);
    EXPECT_FALSE(failure.status.message().empty());
    EXPECT_EQ(std::string(failure.reason), row.reason);
    EXPECT_EQ(OutcomeOf(row.ending, FinishReason::kStop), row.outcome);
    EXPECT_EQ(CancelCauseOf(row.ending), row.cause);
    if (row.cause.has_value()) {
      EXPECT_EQ(CancelStageOf(row.ending, row.progress), row.stage);
    }
  }
}

TEST(EndingTest, OutcomeOfAGoodEndIsItsReason) {
  EXPECT_EQ(OutcomeOf(Ending::kFinished, FinishReason::kStop),
            FinishOutcome::kStop);
  EXPECT_EQ(OutcomeOf(Ending::kFinished, FinishReason::kLength),
            FinishOutcome::kLength);
  EXPECT_EQ(OutcomeOf(Ending::kFinished, FinishReason::kStopSequence),
            FinishOutcome::kStopSequence);
  EXPECT_EQ(CancelCauseOf(Ending::kFinished), std::nullopt);
}

}  // namespace
}  // namespace sparseserve
