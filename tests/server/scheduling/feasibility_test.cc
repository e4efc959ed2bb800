#include "server/scheduling/feasibility.h"

#include <optional>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

absl::Time At(int ms) {
  return absl::FromUnixSeconds(1000) + absl::Milliseconds(ms);
}
absl::Duration Ms(int ms) { return absl::Milliseconds(ms); }

struct Row {
  const char* name;
  int first_token_ms;  // target; 0: none
  OnMiss on_miss;
  int deadline_ms;  // from arrival; 0: none
  int alone_ms, expected_ms, p95_ms;
  std::optional<Ending> refusal;
  bool is_late;
};

// Looked at 100 ms after arrival.
const Row kRows[] = {
    {"NoTarget", 0, OnMiss::kReject, 0, 10, 9000, 9000, {}, false},
    {"Fits", 500, OnMiss::kReject, 0, 10, 300, 400, {}, false},
    {"LateByWaiting", 500, OnMiss::kDense, 0, 10, 401, 500, {}, true},
    {"DegradeIsLate", 500, OnMiss::kDegrade, 0, 10, 401, 500, {}, true},
    {"LateOnlyIfExpectedToBe", 500, OnMiss::kDense, 0, 10, 400, 900, {}, false},
    {"RejectedByTheMargin", 500, OnMiss::kReject, 0, 10, 300, 401,
     Ending::kUnmeetable, false},
    {"RejectedAlone", 500, OnMiss::kReject, 0, 401, 402, 500, Ending::kTooShort,
     false},
    {"CallerGone", 0, OnMiss::kDense, 500, 10, 401, 500, Ending::kUnmeetable,
     false},
    {"CallerGoneAnyhow", 900, OnMiss::kDense, 500, 401, 401, 500,
     Ending::kTooShort, false},
    {"CallerStays", 0, OnMiss::kDense, 500, 10, 400, 900, {}, false},
};

TEST(FeasibilityTest, JudgesByTargetAndDeadline) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(row.name);
    Request request;
    request.arrival = At(0);
    if (row.first_token_ms > 0) {
      request.target.time_to_first_token = Ms(row.first_token_ms);
    }
    request.target.on_miss = row.on_miss;
    if (row.deadline_ms > 0) request.deadline = At(row.deadline_ms);
    const Verdict verdict =
        Judge(request, {Ms(row.expected_ms), Ms(row.p95_ms), Ms(row.alone_ms)},
              At(100));
    EXPECT_EQ(verdict.refusal, row.refusal);
    EXPECT_EQ(verdict.is_late, row.is_late);
  }
}

TEST(FeasibilityTest, RejectsByEveryTargetThatIsSureToBeMissed) {
  struct TokenRow {
    const char* name;
    int each_ms, total_ms;  // targets; 0: none
    int max_output, min_output;
    bool ignore_eos;
    std::optional<Ending> refusal;
  };
  // A first token in 300 ms, 100 ms alone; each further one 20 ms, 5 ms alone.
  const TokenRow rows[] = {
      {"Fits", 20, 900, 50, 1, false, {}},
      {"TokensTooSlow", 19, 0, 50, 1, false, Ending::kUnmeetable},
      {"TokensTooSlowAlone", 4, 0, 50, 1, false, Ending::kTooShort},
      {"OneTokenHasNoGap", 4, 0, 1, 1, false, {}},
      {"MayEndInTime", 0, 500, 5000, 0, false, {}},
      {"LeastOutput", 0, 500, 5000, 7, false, Ending::kUnmeetable},
      {"LeastOutputFits", 0, 500, 5000, 6, false, {}},
      {"WritesAll", 0, 500, 5000, 0, true, Ending::kTooShort},
  };
  for (const TokenRow& row : rows) {
    SCOPED_TRACE(row.name);
    Request request;
    request.arrival = At(0);
    if (row.each_ms > 0) request.target.time_per_output_token = Ms(row.each_ms);
    if (row.total_ms > 0) request.target.total = Ms(row.total_ms);
    request.max_output_tokens = row.max_output;
    request.min_output_tokens = row.min_output;
    request.ignore_eos = row.ignore_eos;
    const FirstTokenEstimate estimate = {.expected = Ms(300),
                                         .p95 = Ms(300),
                                         .alone = Ms(100),
                                         .token_p95 = Ms(20),
                                         .token_alone = Ms(5)};
    request.target.on_miss = OnMiss::kReject;
    EXPECT_EQ(Judge(request, estimate, At(100)).refusal, row.refusal);
    request.target.on_miss = OnMiss::kDense;
    EXPECT_EQ(Judge(request, estimate, At(100)).refusal, std::nullopt);
  }
}

TEST(FeasibilityTest, NothingRunsForAnAnswerThatCannotBeWholeInTime) {
  struct WholeRow {
    const char* name;
    int max_output, min_output;
    bool ignore_eos;
    std::optional<Ending> refusal;
  };
  // Of 400 ms 300 are for the first token; then each takes 20 and a tenth, 5
  // alone.
  const WholeRow rows[] = {
      {"MayEndInTime", 5000, 0, false, {}},
      {"LeastOutputFits", 5000, 5, false, {}},
      {"LeastOutput", 5000, 6, false, Ending::kUnmeetable},
      {"WritesAll", 5, 0, true, {}},
      {"WritesAllTooMuch", 5000, 0, true, Ending::kTooShort},
  };
  for (const WholeRow& row : rows) {
    SCOPED_TRACE(row.name);
    Request request;
    request.arrival = At(0);
    request.deadline = At(500);
    request.max_output_tokens = row.max_output;
    request.min_output_tokens = row.min_output;
    request.ignore_eos = row.ignore_eos;
    const FirstTokenEstimate estimate = {.expected = Ms(300),
                                         .p95 = Ms(300),
                                         .alone = Ms(100),
                                         .token_alone = Ms(5),
                                         .token_lately = Ms(20)};
    EXPECT_EQ(Judge(request, estimate, At(100)).refusal, row.refusal);
  }
}

TEST(FeasibilityTest, TheSoonestOfTargetsAndDeadlineCounts) {
  Request request;
  request.arrival = At(0);
  EXPECT_EQ(TargetDeadline(request), absl::InfiniteFuture());
  EXPECT_EQ(FirstTokenDeadline(request), absl::InfiniteFuture());
  request.deadline = At(900);
  EXPECT_EQ(FirstTokenDeadline(request), At(900));
  request.target.total = Ms(800);
  EXPECT_EQ(FirstTokenDeadline(request), At(800));
  request.target.time_to_first_token = Ms(700);
  EXPECT_EQ(TargetDeadline(request), At(700));
}

}  // namespace
}  // namespace sparseserve
