#include "tests/integration/logits_comparison.h"

#include <algorithm>
#include <cmath>

namespace sparseserve {
namespace {

constexpr float kWideMargin = 0.5f;

// p * log(p / q), where q may have rounded to zero or below.
double DivergenceTerm(double p, double q) {
  constexpr double kLeast = 1e-12;
  return p < kLeast ? 0.0 : p * std::log(p / std::max(q, kLeast));
}

// Natural logarithm of the sum of exp over all of `logits`.
double LogSumExp(absl::Span<const float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

}  // namespace

double LogitsComparison::Add(const GoldenRows& rows, int position,
                             absl::Span<const float> logits) {
  const size_t first = static_cast<size_t>(position) * rows.top;
  const uint16_t* ids = &rows.top_ids[first];
  const float* expected = &rows.top_logits[first];
  const float range = expected[0] - rows.least[position];
  const double log_sum = LogSumExp(logits);

  double rest = 1;
  double reference_rest = 1;
  for (int i = 0; i < rows.top; ++i) {
    const float logit = logits[ids[i]];
    const double difference = std::abs(logit - expected[i]) / range;
    // A NaN counts as infinite.
    if (!(difference <= worst_difference_))
      worst_difference_ = std::isnan(difference) ? HUGE_VAL : difference;
    const double p = std::exp(expected[i] - double{rows.log_sum_exp[position]});
    const double q = std::exp(logit - log_sum);
    divergence_ += DivergenceTerm(p, q);
    reference_rest -= p;
    rest -= q;
  }
  divergence_ += DivergenceTerm(reference_rest, rest);

  const bool same =
      std::max_element(logits.begin(), logits.end()) - logits.begin() == ids[0];
  ++positions_;
  same_top1_ += same;
  if (expected[0] - expected[1] >= kWideMargin) {
    ++wide_margins_;
    wide_margin_misses_ += !same;
  }
  return log_sum;
}

void LogitsComparison::AddWithTarget(const GoldenRows& rows, int position,
                                     absl::Span<const float> logits,
                                     TokenId target) {
  const double log_sum = Add(rows, position, logits);
  ++targets_;
  logprob_ += logits[target] - log_sum;
  reference_logprob_ += rows.target_logprob[position];
}

double LogitsComparison::top1_agreement() const {
  return static_cast<double>(same_top1_) / positions_;
}

double LogitsComparison::mean_divergence() const {
  return divergence_ / positions_;
}

double LogitsComparison::reference_perplexity() const {
  return std::exp(-reference_logprob_ / targets_);
}

double LogitsComparison::perplexity_ratio() const {
  return std::exp((reference_logprob_ - logprob_) / targets_);
}

std::ostream& operator<<(std::ostream& out,
                         const LogitsComparison& comparison) {
  out << comparison.positions() << " positions, top-1 agreement "
      << 100 * comparison.top1_agreement()
      << " % (margin >= 0.5: " << comparison.wide_margin_misses()
      << " misses of " << comparison.wide_margins()
      << "), mean KL >= " << comparison.mean_divergence()
      << ", worst logit difference " << comparison.worst_difference()
      << " of range";
  const double perplexity = comparison.reference_perplexity();
  if (std::isfinite(perplexity)) {
    out << ", perplexity " << perplexity * comparison.perplexity_ratio()
        << " against " << perplexity << " (ratio "
        << comparison.perplexity_ratio() << ")";
  }
  return out;
}

}  // namespace sparseserve
