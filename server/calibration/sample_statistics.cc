#include "server/calibration/sample_statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

constexpr double kUpperOfOne = 10;

// The 95th percentile of Student's t by degrees of freedom, from 1.
constexpr std::array<double, 30> kStudent95 = {
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
    1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725,
    1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697};

// Beyond the table, the first terms of its expansion about the normal's.
double Student95(size_t degrees) {
  if (degrees <= kStudent95.size()) return kStudent95[degrees - 1];
  constexpr double kNormal95 = 1.6449;
  const auto n = static_cast<double>(degrees);
  return kNormal95 + (kNormal95 * kNormal95 * kNormal95 + kNormal95) / (4 * n);
}

}  // namespace

double MeanOf(absl::Span<const double> values) {
  SPARSESERVE_CHECK(!values.empty());
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(values.size());
}

double QuantileOf(std::vector<double> values, double share) {
  SPARSESERVE_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const double at = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return std::lerp(values[below], values[above],
                   at - static_cast<double>(below));
}

double UpperBoundOfMean(absl::Span<const double> values) {
  const double mean = MeanOf(values);
  if (values.size() == 1) return kUpperOfOne * mean;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto n = static_cast<double>(values.size());
  return mean + Student95(values.size() - 1) * std::sqrt(squares / (n - 1) / n);
}

}  // namespace sparseserve
