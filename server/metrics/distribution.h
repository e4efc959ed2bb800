#pragma once

#include <vector>

namespace sparseserve {

// The contents of a histogram: how many observations each bucket holds, and
// their sum. A value; default-constructed it holds nothing.
struct Distribution {
  // Ascending; one bucket more, beyond the last bound, is without a bound.
  std::vector<double> bounds;
  std::vector<double> counts;  // [bounds + 1], of each bucket alone
  double sum = 0;

  double Count() const;

  // NaN without observations.
  double Mean() const;

  // What `share` (0 to 1) of the observations do not exceed, evenly spread
  // within their bucket, as Prometheus' histogram_quantile() has it: in the
  // last bucket it is the last bound. NaN without observations.
  double Quantile(double share) const;

  // REQUIRES: the same bounds, or one of both holds nothing.
  Distribution& operator+=(const Distribution& other);
  // What was added since `earlier`.
  Distribution Since(const Distribution& earlier) const;
};

}  // namespace sparseserve
