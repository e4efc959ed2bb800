#include "engine/profile/dense_distribution.h"

#include <algorithm>
#include <cmath>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

// Natural logarithm of the sum of exp over all of `logits`.
double LogSumExp(absl::Span<const float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

int64_t TopOf(absl::Span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

}  // namespace

DenseDistribution::DenseDistribution(absl::Span<const float> logits)
    : logits_(logits.begin(), logits.end()),
      log_sum_(LogSumExp(logits)),
      top_(TopOf(logits)) {
  probabilities_.reserve(logits.size());
  for (const float logit : logits) {
    probabilities_.push_back(static_cast<float>(std::exp(logit - log_sum_)));
  }
}

RowDivergence DenseDistribution::Compare(absl::Span<const float> logits) const {
  SPARSESERVE_CHECK(logits.size() == logits_.size());
  // Each term is about its own shift, so that rounding of probabilities does
  // not weigh the difference of the sums.
  const double log_sum = LogSumExp(logits);
  const double shift = log_sum - log_sum_;
  double divergence = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    divergence += probabilities_[i] * (logits_[i] - logits[i] + shift);
  }
  return {std::max(divergence, 0.0), TopOf(logits) == top_, log_sum};
}

double DenseDistribution::LogProbability(int32_t token) const {
  return logits_[token] - log_sum_;
}

}  // namespace sparseserve
