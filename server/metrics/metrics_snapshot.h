#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/metrics/distribution.h"

namespace sparseserve {

// All metrics at one moment, by their names of README.md, for readers in this
// process. A value.
struct MetricsSnapshot {
  struct Series {
    std::vector<std::pair<std::string, std::string>> labels;
    double value = 0;           // of counters and gauges
    Distribution distribution;  // of histograms

    // Empty if the series has no such label.
    absl::string_view Label(absl::string_view name) const;
  };

  std::map<std::string, std::vector<Series>, std::less<>> families;

  // No series if there is no such family.
  absl::Span<const Series> Family(absl::string_view name) const;
  // The sum of a family's values or distributions.
  double Value(absl::string_view name) const;
  Distribution All(absl::string_view name) const;
};

}  // namespace sparseserve
