#include "server/metrics/distribution.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "engine/base/check.h"

namespace sparseserve {

double Distribution::Count() const {
  return std::accumulate(counts.begin(), counts.end(), 0.0);
}

double Distribution::Mean() const {
  const double count = Count();
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

double Distribution::Quantile(double share) const {
  const double rank = share * Count();
  if (bounds.empty() || Count() <= 0) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  double below = 0;
  for (size_t i = 0; i < bounds.size(); ++i) {
    if (counts[i] > 0 && below + counts[i] >= rank) {
      const double from = i == 0 ? std::min(0.0, bounds[0]) : bounds[i - 1];
      return from + (bounds[i] - from) * (rank - below) / counts[i];
    }
    below += counts[i];
  }
  return bounds.back();
}

Distribution& Distribution::operator+=(const Distribution& other) {
  if (other.bounds.empty()) return *this;
  if (bounds.empty()) return *this = other;
  SPARSESERVE_DCHECK(bounds == other.bounds);
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  sum += other.sum;
  return *this;
}

Distribution Distribution::Since(const Distribution& earlier) const {
  Distribution added = *this;
  if (earlier.bounds.empty()) return added;
  SPARSESERVE_DCHECK(bounds == earlier.bounds);
  for (size_t i = 0; i < counts.size(); ++i) {
    added.counts[i] -= earlier.counts[i];
  }
  added.sum -= earlier.sum;
  return added;
}

}  // namespace sparseserve
