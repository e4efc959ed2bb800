#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sparseserve {

// A label and the value that a series must have.
using MetricLabel = std::pair<std::string, std::string>;

// One histogram of a scrape in Prometheus' text format, summed over the series
// that have some labels. Plain data.
struct MetricHistogram {
  // Upper bounds of the buckets in seconds, ascending, the last infinite.
  std::vector<double> bounds;
  // In each bucket alone.
  std::vector<double> counts;

  double Count() const;

  // Index of the bucket that the quantile lies in: `share` as
  // LatencyHistogram::Quantile. REQUIRES: Count() > 0.
  size_t QuantileBucket(double share) const;

  // Index of the bucket that holds a value.
  size_t BucketOf(double seconds) const;

  // "(0.05, 0.075] s".
  std::string Describe(size_t bucket) const;
};

// NOT_FOUND if `scrape` has no histogram `name` with these labels;
// INVALID_ARGUMENT if it is malformed.
absl::StatusOr<MetricHistogram> ParseMetricHistogram(
    absl::string_view scrape, absl::string_view name,
    absl::Span<const MetricLabel> labels);

// What `after` has more than `before`. INVALID_ARGUMENT if their bounds differ
// or it has less: the server was started anew in between.
absl::StatusOr<MetricHistogram> Difference(const MetricHistogram& after,
                                           const MetricHistogram& before);

}  // namespace sparseserve
