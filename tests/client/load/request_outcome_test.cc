#include "client/load/request_outcome.h"

#include "client/status_payload.h"
#include "client/wire_format.pb.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

absl::Duration Ms(int64_t ms) { return absl::Milliseconds(ms); }

// A status with a reason, as a server gives it.
absl::Status FromServer(absl::StatusCode code, const std::string& reason) {
  client_wire::ErrorInfo info;
  info.set_reason(reason);
  client_wire::Status details;
  auto& any = *details.add_details();
  any.set_type_url("type.googleapis.com/google.rpc.ErrorInfo");
  any.set_value(info.SerializeAsString());
  absl::Status status(code, "no");
  status.SetPayload(kErrorDetailsPayload,
                    absl::Cord(details.SerializeAsString()));
  return status;
}

TEST(RequestOutcomeTest, TokensOfAMessageAreEvenlySpaced) {
  RequestOutcome outcome;
  AddTokens(Ms(100), 1, outcome);
  AddTokens(Ms(130), 1, outcome);
  AddTokens(Ms(190), 3, outcome);
  EXPECT_EQ(outcome.first_token, Ms(100));
  EXPECT_EQ(outcome.last_token, Ms(190));
  EXPECT_EQ(outcome.output_tokens, 5);
  ASSERT_EQ(outcome.gaps.size(), 2u);
  EXPECT_EQ(outcome.gaps[0].time, Ms(30));
  EXPECT_EQ(outcome.gaps[0].tokens, 1);
  EXPECT_EQ(outcome.gaps[1].time, Ms(20));
  EXPECT_EQ(outcome.gaps[1].tokens, 3);
}

TEST(RequestOutcomeTest, TokensThatCameWithTheFirstHaveNoTimeBetween) {
  RequestOutcome outcome;
  AddTokens(Ms(100), 3, outcome);
  ASSERT_EQ(outcome.gaps.size(), 1u);
  EXPECT_EQ(outcome.gaps[0].time, Ms(0));
  EXPECT_EQ(outcome.gaps[0].tokens, 2);
}

TEST(RequestOutcomeTest, EndsAreToldApart) {
  using Code = absl::StatusCode;
  struct Case {
    absl::Status status;
    ClientStop stop;
    int tokens;
    EndKind kind;
    const char* reason;
  };
  const absl::Status cancelled = absl::CancelledError("x");
  for (const Case& c : {
           Case{absl::OkStatus(), {}, 1, EndKind::kFinished, ""},
           // Ended well before the cancel arrived.
           Case{absl::OkStatus(),
                {.cancelled = true},
                1,
                EndKind::kFinished,
                ""},
           Case{cancelled,
                {.cancelled = true},
                1,
                EndKind::kCancelled,
                "CANCELLED"},
           Case{cancelled,
                {.interrupted = true},
                0,
                EndKind::kInterrupted,
                "CANCELLED"},
           Case{cancelled, {}, 1, EndKind::kFailed, "CANCELLED"},
           Case{absl::DeadlineExceededError("x"),
                {},
                0,
                EndKind::kExpired,
                "DEADLINE_EXCEEDED"},
           Case{FromServer(Code::kDeadlineExceeded, "DEADLINE_TOO_SHORT"),
                {},
                0,
                EndKind::kRefused,
                "DEADLINE_TOO_SHORT"},
           Case{FromServer(Code::kDeadlineExceeded, "DEADLINE_IN_QUEUE"),
                {},
                0,
                EndKind::kExpired,
                "DEADLINE_IN_QUEUE"},
           Case{FromServer(Code::kUnavailable, "QUEUE_FULL"),
                {},
                0,
                EndKind::kRefused,
                "QUEUE_FULL"},
           Case{FromServer(Code::kInvalidArgument, "PROMPT_TOO_LONG"),
                {},
                0,
                EndKind::kRefused,
                "PROMPT_TOO_LONG"},
           // After its first token it is no refusal.
           Case{FromServer(Code::kUnavailable, "DRAINING"),
                {},
                1,
                EndKind::kFailed,
                "DRAINING"},
           Case{FromServer(Code::kInternal, "ENGINE_FAILED"),
                {},
                0,
                EndKind::kFailed,
                "ENGINE_FAILED"},
           // Nobody was there to refuse it.
           Case{absl::UnavailableError("x"),
                {},
                0,
                EndKind::kFailed,
                "UNAVAILABLE"},
       }) {
    RequestOutcome outcome;
    if (c.tokens > 0) AddTokens(Ms(1), c.tokens, outcome);
    SetEnd(c.status, c.stop, outcome);
    EXPECT_EQ(outcome.kind, c.kind) << c.status;
    EXPECT_EQ(outcome.reason, c.reason) << c.status;
  }
}

}  // namespace
}  // namespace sparseserve
