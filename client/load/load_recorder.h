#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/load/latency_histogram.h"
#include "client/load/load_class.h"
#include "client/load/request_outcome.h"
#include "client/load/request_plan.h"

namespace sparseserve {

// Whether a request kept to what its class asks of time.
enum class Verdict {
  kMet,
  kMissed,
  // The client ended it before that was known.
  kUnknown,
};

// Times count from when the request was meant to be sent. What was refused or
// failed has missed. What was to be cancelled is unknown; what the end of the
// run interrupted has missed if it was too late already, else is unknown. A
// class that asks nothing of time is met by what finishes.
Verdict Judge(const LoadClass& asks, const PlannedRequest& planned,
              const RequestOutcome& outcome);

// Sums over requests that ended.
struct LoadTally {
  int64_t ended = 0;
  // By EndKind.
  std::array<int64_t, 6> kinds = {};
  // How often each reason was given, by EndKind.
  std::array<std::map<std::string, int64_t>, 6> reasons;
  int64_t met = 0;
  int64_t missed = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;
  int64_t output_tokens = 0;
  // Of requests that met all.
  int64_t met_output_tokens = 0;

  // Since requests were meant to be sent; each of requests that had one.
  LatencyHistogram first_token;
  LatencyHistogram total;  // to the last message; finished requests
  // Of all tokens but the first of each request.
  LatencyHistogram inter_token;
  // Mean of a finished request with at least two tokens.
  LatencyHistogram per_output_token;

  int64_t count(EndKind kind) const { return kinds[static_cast<size_t>(kind)]; }
};

// What a run measured. Latencies begin when a request was meant to be sent, not
// when it was: waiting in the generator counts, so that a server which stalls
// it does not hide the stall. One thread.
class LoadRecorder {
 public:
  // Borrows the classes.
  explicit LoadRecorder(absl::Span<const LoadClass> classes)
      : classes_(classes), tallies_(classes.size()) {}

  Verdict Record(const PlannedRequest& planned, const RequestOutcome& outcome);

  const LoadTally& all() const { return all_; }
  absl::Span<const LoadClass> classes() const { return classes_; }
  const LoadTally& of_class(size_t load_class) const {
    return tallies_[load_class];
  }

  // From when requests were meant to be sent to when they were.
  const LatencyHistogram& lag() const { return lag_; }
  // As servers see them: since requests were sent. Those refused or failed have
  // no total time.
  const LatencyHistogram& first_token_since_sent() const {
    return first_token_since_sent_;
  }
  const LatencyHistogram& total_since_sent() const { return total_since_sent_; }

 private:
  absl::Span<const LoadClass> classes_;
  std::vector<LoadTally> tallies_;
  LoadTally all_;
  LatencyHistogram lag_;
  LatencyHistogram first_token_since_sent_;
  LatencyHistogram total_since_sent_;
};

}  // namespace sparseserve
