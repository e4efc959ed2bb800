#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/load/latency_histogram.h"
#include "client/load/load_recorder.h"
#include "client/load/metric_histogram.h"

namespace sparseserve {

// One percentile, as the client and as the server saw it.
struct ComparedQuantile {
  std::string metric;
  double share = 0;  // such as 0.99
  double client_seconds = 0;
  // Bucket of the server's value.
  double server_above_seconds = 0;
  double server_at_most_seconds = 0;  // may be infinite
  int64_t client_count = 0;
  double server_count = 0;
  // Both counted the same requests, but for those that did not finish.
  bool counts_agree = true;
  // So they did, and the client's value is in that bucket or in one beside it.
  bool agrees = false;

  // "sparseserve_..._seconds p99: client 0.31 s, server (0.1, 0.25] s".
  std::string Describe() const;
};

// Compares `client` with what one histogram of the server counted. Nothing if
// both are empty; quantiles 0.5, 0.95 and 0.99 otherwise, none of which agrees
// if only one is.
std::vector<ComparedQuantile> CompareHistogram(absl::string_view metric,
                                               const LatencyHistogram& client,
                                               const MetricHistogram& server);

// Compares time to first token, time between tokens and total time, since
// requests were sent, with the histograms of two scrapes around the run.
// Requests that only one side counted mean another server, or another caller.
// The status names the histogram that cannot be compared.
absl::StatusOr<std::vector<ComparedQuantile>> CompareWithServer(
    const LoadRecorder& recorder, absl::string_view scrape_before,
    absl::string_view scrape_after);

}  // namespace sparseserve
