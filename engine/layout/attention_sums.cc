#include "engine/layout/attention_sums.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

double Sum(absl::Span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// p ln(p / m), whose limit at 0 is 0.
double Term(double p, double m) { return p > 0 ? p * std::log(p / m) : 0; }

}  // namespace

void SumBlocks(absl::Span<const float> values, std::vector<float>& blocks) {
  blocks.clear();
  for (size_t first = 0; first < values.size(); first += kPageTokens) {
    blocks.push_back(
        static_cast<float>(Sum(values.subspan(first, kPageTokens))));
  }
}

bool AreFinite(absl::Span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [](float value) { return std::isfinite(value); });
}

double JensenShannonDistance(absl::Span<const float> p,
                             absl::Span<const float> q) {
  SPARSESERVE_CHECK(p.size() == q.size());
  const double p_sum = Sum(p);
  const double q_sum = Sum(q);
  if (!(p_sum > 0) || !(q_sum > 0)) return std::nan("");
  double divergence = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double a = p[i] / p_sum;
    const double b = q[i] / q_sum;
    const double mean = (a + b) / 2;
    divergence += (Term(a, mean) + Term(b, mean)) / 2;
  }
  // Rounding can leave less than nothing; a NaN must stay one.
  return std::sqrt(divergence < 0 ? 0 : divergence);
}

}  // namespace sparseserve
