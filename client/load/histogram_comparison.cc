#include "client/load/histogram_comparison.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace sparseserve {
namespace {

// Requests that ended on one side before the other knew, or only there.
int64_t Unfinished(const LoadTally& all) {
  return all.count(EndKind::kExpired) + all.count(EndKind::kCancelled) +
         all.count(EndKind::kInterrupted) + all.count(EndKind::kFailed);
}

}  // namespace

std::string ComparedQuantile::Describe() const {
  if (client_count == 0 || server_count == 0 || !counts_agree) {
    return absl::StrFormat("%s: client counted %d, server %.0f", metric,
                           client_count, server_count);
  }
  return absl::StrFormat("%s p%g: client %.4g s, server (%g, %g] s", metric,
                         share * 100, client_seconds, server_above_seconds,
                         server_at_most_seconds);
}

std::vector<ComparedQuantile> CompareHistogram(absl::string_view metric,
                                               const LatencyHistogram& client,
                                               const MetricHistogram& server) {
  std::vector<ComparedQuantile> compared;
  const double server_count = server.Count();
  if (client.count() == 0 && server_count == 0) return compared;
  for (const double share : {0.5, 0.95, 0.99}) {
    ComparedQuantile quantile = {.metric = std::string(metric),
                                 .share = share,
                                 .client_count = client.count(),
                                 .server_count = server_count};
    if (client.count() > 0 && server_count > 0) {
      quantile.client_seconds = absl::ToDoubleSeconds(client.Quantile(share));
      const size_t theirs = server.QuantileBucket(share);
      const size_t ours = server.BucketOf(quantile.client_seconds);
      quantile.server_above_seconds =
          theirs == 0 ? 0 : server.bounds[theirs - 1];
      quantile.server_at_most_seconds = server.bounds[theirs];
      quantile.agrees = ours <= theirs + 1 && theirs <= ours + 1;
    }
    compared.push_back(std::move(quantile));
  }
  return compared;
}

absl::StatusOr<std::vector<ComparedQuantile>> CompareWithServer(
    const LoadRecorder& recorder, absl::string_view scrape_before,
    absl::string_view scrape_after) {
  struct Pair {
    absl::string_view metric;
    std::vector<MetricLabel> labels;
    const LatencyHistogram& client;
    bool counts_requests;
  };
  const Pair pairs[] = {
      {"sparseserve_time_to_first_token_seconds",
       {},
       recorder.first_token_since_sent(),
       true},
      {"sparseserve_inter_token_latency_seconds",
       {},
       recorder.all().inter_token,
       false},
      {"sparseserve_request_duration_seconds",
       {{"operation", "stream_generate"}},
       recorder.total_since_sent(),
       true},
  };
  std::vector<ComparedQuantile> compared;
  for (const Pair& pair : pairs) {
    auto before = ParseMetricHistogram(scrape_before, pair.metric, pair.labels);
    if (!before.ok()) return before.status();
    auto after = ParseMetricHistogram(scrape_after, pair.metric, pair.labels);
    if (!after.ok()) return after.status();
    auto server = Difference(*after, *before);
    if (!server.ok()) {
      return absl::Status(
          server.status().code(),
          absl::StrCat(pair.metric, ": ", server.status().message()));
    }
    for (ComparedQuantile& quantile :
         CompareHistogram(pair.metric, pair.client, *server)) {
      if (pair.counts_requests) {
        const double apart = std::abs(
            quantile.server_count - static_cast<double>(quantile.client_count));
        quantile.counts_agree =
            apart <= static_cast<double>(Unfinished(recorder.all()));
        quantile.agrees = quantile.agrees && quantile.counts_agree;
      }
      compared.push_back(std::move(quantile));
    }
  }
  return compared;
}

}  // namespace sparseserve
