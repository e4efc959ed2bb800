#include "server/scheduling/ending.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

struct Row {
  Ending ending;
  Progress progress;
  absl::StatusCode code;
  ErrorReason reason;
  FinishOutcome outcome;
  std::optional<CancelCause> cause;
  CancelStage stage;  // if there is a cause
};

const Row kRows[] = {
    {Ending::kCancelled, Progress::kWaiting, absl::StatusCode::kCancelled,
     ErrorReason::kCancelled, FinishOutcome::kCancelled, CancelCause::kClient,
     CancelStage::kQueue},
    {Ending::kCancelled, Progress::kPrefill, absl::StatusCode::kCancelled,
     ErrorReason::kCancelled, FinishOutcome::kCancelled, CancelCause::kClient,
     CancelStage::kPrefill},
    {Ending::kDeadline, Progress::kWaiting, absl::StatusCode::kDeadlineExceeded,
     ErrorReason::kDeadlineInQueue, FinishOutcome::kDeadline,
     CancelCause::kDeadline, CancelStage::kQueue},
    {Ending::kDeadline, Progress::kPrefill, absl::StatusCode::kDeadlineExceeded,
     ErrorReason::kDeadlineExpired, FinishOutcome::kDeadline,
     CancelCause::kDeadline, CancelStage::kPrefill},
    {Ending::kDeadline, Progress::kDecode, absl::StatusCode::kDeadlineExceeded,
     ErrorReason::kDeadlineExpired, FinishOutcome::kDeadline,
     CancelCause::kDeadline, CancelStage::kDecode},
    {Ending::kSlowConsumer, Progress::kDecode, absl::StatusCode::kCancelled,
     ErrorReason::kSlowConsumer, FinishOutcome::kCancelled,
     CancelCause::kSlowConsumer, CancelStage::kWrite},
    {Ending::kDraining, Progress::kWaiting, absl::StatusCode::kUnavailable,
     ErrorReason::kDraining, FinishOutcome::kCancelled, CancelCause::kDrain,
     CancelStage::kQueue},
    {Ending::kDraining, Progress::kDecode, absl::StatusCode::kUnavailable,
     ErrorReason::kDraining, FinishOutcome::kCancelled, CancelCause::kDrain,
     CancelStage::kDecode},
    {Ending::kNumericFault,
     Progress::kDecode,
     absl::StatusCode::kInternal,
     ErrorReason::kNumericFault,
     FinishOutcome::kError,
     std::nullopt,
     {}},
    {Ending::kDeviceFailed,
     Progress::kDecode,
     absl::StatusCode::kInternal,
     ErrorReason::kDeviceFailed,
     FinishOutcome::kError,
     std::nullopt,
     {}},
    {Ending::kDeviceFailed,
     Progress::kWaiting,
     absl::StatusCode::kUnavailable,
     ErrorReason::kDeviceFailed,
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
    EXPECT_EQ(failure.reason, row.reason);
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

TEST(EndingTest, RefusalsSayWhetherAnotherReplicaMayTakeIt) {
  const Failure in_queue = FailureOf(Ending::kUnmeetable, Progress::kWaiting);
  EXPECT_EQ(in_queue.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(in_queue.reason, ErrorReason::kDeadlineUnmeetable);
  const Failure alone = FailureOf(Ending::kTooShort, Progress::kWaiting);
  EXPECT_EQ(alone.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(alone.reason, ErrorReason::kDeadlineTooShort);
  EXPECT_TRUE(IsRefusal(Ending::kUnmeetable));
  EXPECT_TRUE(IsRefusal(Ending::kTooShort));
  EXPECT_FALSE(IsRefusal(Ending::kDeadline));
  EXPECT_EQ(CancelCauseOf(Ending::kUnmeetable), std::nullopt);
}

}  // namespace
}  // namespace sparseserve
