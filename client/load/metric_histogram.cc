#include "client/load/metric_histogram.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace sparseserve {
namespace {

// The value of a label in `labels`, the text between a series' braces. Values
// with a quote or a backslash in them do not occur in what is compared.
std::optional<absl::string_view> LabelValue(absl::string_view labels,
                                            absl::string_view name) {
  while (!labels.empty()) {
    const size_t equals = labels.find("=\"");
    if (equals == labels.npos) return std::nullopt;
    const absl::string_view key = labels.substr(0, equals);
    labels.remove_prefix(equals + 2);
    const size_t end = labels.find('"');
    if (end == labels.npos) return std::nullopt;
    if (key == name) return labels.substr(0, end);
    labels.remove_prefix(end + 1);
    absl::ConsumePrefix(&labels, ",");
  }
  return std::nullopt;
}

bool HasAll(absl::string_view labels, absl::Span<const MetricLabel> wanted) {
  return std::all_of(wanted.begin(), wanted.end(),
                     [labels](const MetricLabel& label) {
                       return LabelValue(labels, label.first) == label.second;
                     });
}

}  // namespace

double MetricHistogram::Count() const {
  double sum = 0;
  for (const double count : counts) sum += count;
  return sum;
}

size_t MetricHistogram::QuantileBucket(double share) const {
  const double rank = std::max(std::ceil(share * Count()), 1.0);
  double seen = 0;
  for (size_t bucket = 0; bucket < counts.size(); ++bucket) {
    seen += counts[bucket];
    if (seen >= rank) return bucket;
  }
  return counts.size() - 1;
}

size_t MetricHistogram::BucketOf(double seconds) const {
  return std::lower_bound(bounds.begin(), bounds.end() - 1, seconds) -
         bounds.begin();
}

std::string MetricHistogram::Describe(size_t bucket) const {
  const std::string from =
      absl::StrCat("(", bucket == 0 ? 0.0 : bounds[bucket - 1], ", ");
  if (bucket + 1 == bounds.size()) return absl::StrCat(from, "inf) s");
  return absl::StrCat(from, bounds[bucket], "] s");
}

absl::StatusOr<MetricHistogram> ParseMetricHistogram(
    absl::string_view scrape, absl::string_view name,
    absl::Span<const MetricLabel> labels) {
  // By upper bound, how many are at most that.
  std::map<double, double> cumulative;
  const std::string prefix = absl::StrCat(name, "_bucket{");
  for (absl::string_view line : absl::StrSplit(scrape, '\n')) {
    const absl::string_view whole = line;
    if (!absl::ConsumePrefix(&line, prefix)) continue;
    const size_t end = line.find('}');
    const absl::string_view series = line.substr(0, end);
    if (!HasAll(series, labels)) continue;
    double bound = 0;
    double value = 0;
    const std::optional<absl::string_view> le = LabelValue(series, "le");
    if (end == line.npos || !le.has_value() ||
        !absl::SimpleAtod(*le == "+Inf" ? "inf" : *le, &bound) ||
        !absl::SimpleAtod(line.substr(end + 1), &value) || std::isnan(bound) ||
        !std::isfinite(value) || value < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the scrape has a malformed line: ", whole.substr(0, 200)));
    }
    cumulative[bound] += value;
  }
  if (cumulative.empty()) {
    return absl::NotFoundError(
        absl::StrCat("the scrape has no histogram ", name));
  }
  if (std::isfinite(cumulative.rbegin()->first)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has no bucket le=\"+Inf\""));
  }
  MetricHistogram histogram;
  double below = 0;
  for (const auto& [bound, count] : cumulative) {
    if (count < below) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": bucket le=\"", bound, "\" has fewer than the one before"));
    }
    histogram.bounds.push_back(bound);
    histogram.counts.push_back(count - below);
    below = count;
  }
  return histogram;
}

absl::StatusOr<MetricHistogram> Difference(const MetricHistogram& after,
                                           const MetricHistogram& before) {
  MetricHistogram difference = after;
  if (after.bounds != before.bounds) {
    return absl::InvalidArgumentError("the buckets changed during the run");
  }
  for (size_t i = 0; i < difference.counts.size(); ++i) {
    difference.counts[i] -= before.counts[i];
    if (difference.counts[i] < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "bucket ", after.Describe(i), " fell from ", before.counts[i], " to ",
          after.counts[i], ": the server was started anew"));
    }
  }
  return difference;
}

}  // namespace sparseserve
