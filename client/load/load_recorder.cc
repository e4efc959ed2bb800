#include "client/load/load_recorder.h"

#include <algorithm>

namespace sparseserve {
namespace {

// Infinite with fewer than two tokens.
absl::Duration TimePerOutputToken(const RequestOutcome& outcome) {
  if (outcome.output_tokens < 2) return absl::InfiniteDuration();
  return (outcome.last_token - outcome.first_token) /
         (outcome.output_tokens - 1);
}

void AddTo(LoadTally& tally, const PlannedRequest& planned,
           const RequestOutcome& outcome, Verdict verdict) {
  const auto kind = static_cast<size_t>(outcome.kind);
  const bool finished = outcome.kind == EndKind::kFinished;
  ++tally.ended;
  ++tally.kinds[kind];
  if (!finished) ++tally.reasons[kind][outcome.reason];
  tally.prompt_tokens += outcome.prompt_tokens;
  tally.cached_prompt_tokens += outcome.cached_prompt_tokens;
  tally.output_tokens += outcome.output_tokens;
  if (verdict == Verdict::kMet) {
    ++tally.met;
    tally.met_output_tokens += outcome.output_tokens;
  } else if (verdict == Verdict::kMissed) {
    ++tally.missed;
  }
  if (outcome.first_token < absl::InfiniteDuration()) {
    tally.first_token.Add(outcome.first_token - planned.intended);
  }
  for (const RequestOutcome::Gap& gap : outcome.gaps) {
    tally.inter_token.Add(gap.time, gap.tokens);
  }
  if (!finished) return;
  tally.total.Add(outcome.ended - planned.intended);
  const absl::Duration per_token = TimePerOutputToken(outcome);
  if (per_token < absl::InfiniteDuration()) {
    tally.per_output_token.Add(per_token);
  }
}

}  // namespace

Verdict Judge(const LoadClass& asks, const PlannedRequest& planned,
              const RequestOutcome& outcome) {
  // What has not come by the end has taken at least until then.
  const absl::Duration first =
      std::min(outcome.first_token, outcome.ended) - planned.intended;
  const absl::Duration total = outcome.ended - planned.intended;
  const bool late = first > asks.time_to_first_token || total > asks.total ||
                    total > asks.deadline;
  // Drawn beforehand, so that what is left says as much about the server; to
  // count only those that are late already would not.
  if (outcome.kind == EndKind::kCancelled) return Verdict::kUnknown;
  if (outcome.kind == EndKind::kInterrupted) {
    return late ? Verdict::kMissed : Verdict::kUnknown;
  }
  if (outcome.kind != EndKind::kFinished || late) return Verdict::kMissed;
  const absl::Duration per_token = TimePerOutputToken(outcome);
  const bool slow = per_token < absl::InfiniteDuration() &&
                    per_token > asks.time_per_output_token;
  return slow ? Verdict::kMissed : Verdict::kMet;
}

Verdict LoadRecorder::Record(const PlannedRequest& planned,
                             const RequestOutcome& outcome) {
  const Verdict verdict = Judge(classes_[planned.load_class], planned, outcome);
  AddTo(tallies_[planned.load_class], planned, outcome, verdict);
  AddTo(all_, planned, outcome, verdict);
  lag_.Add(outcome.sent - planned.intended);
  if (outcome.first_token < absl::InfiniteDuration()) {
    first_token_since_sent_.Add(outcome.first_token - outcome.sent);
  }
  if (outcome.kind != EndKind::kRefused && outcome.kind != EndKind::kFailed) {
    total_since_sent_.Add(outcome.ended - outcome.sent);
  }
  return verdict;
}

}  // namespace sparseserve
