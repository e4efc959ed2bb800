#include "server/metrics/metrics_snapshot.h"

namespace sparseserve {

absl::string_view MetricsSnapshot::Series::Label(absl::string_view name) const {
  for (const auto& [label, value] : labels) {
    if (label == name) return value;
  }
  return "";
}

absl::Span<const MetricsSnapshot::Series> MetricsSnapshot::Family(
    absl::string_view name) const {
  const auto found = families.find(name);
  if (found == families.end()) return {};
  return found->second;
}

double MetricsSnapshot::Value(absl::string_view name) const {
  double sum = 0;
  for (const Series& series : Family(name)) sum += series.value;
  return sum;
}

Distribution MetricsSnapshot::All(absl::string_view name) const {
  Distribution sum;
  for (const Series& series : Family(name)) sum += series.distribution;
  return sum;
}

}  // namespace sparseserve
