#pragma once

#include <ostream>

#include "absl/types/span.h"
#include "tests/integration/golden_logits.h"

namespace sparseserve {

// How far our logits are from the reference's, over many positions. The
// reference is known by its largest logits only (GoldenRows), so the
// divergence here is that of the distributions over those tokens and one
// bucket for all others: a lower bound of the whole one.
class LogitsComparison {
 public:
  // `logits` [vocab_size] are ours at `position` of what `rows` describes.
  // Returns the logarithm of the sum of their exponentials.
  double Add(const GoldenRows& rows, int position,
             absl::Span<const float> logits);
  // As Add(), and both also score `target`, the token that comes next.
  void AddWithTarget(const GoldenRows& rows, int position,
                     absl::Span<const float> logits, TokenId target);

  int positions() const { return positions_; }
  // Positions where the reference's two largest logits differ by 0.5 or more,
  // and those of them where our largest is another token's.
  int wide_margins() const { return wide_margins_; }
  int wide_margin_misses() const { return wide_margin_misses_; }
  double top1_agreement() const;
  // Mean of KL(reference || ours), nats a token.
  double mean_divergence() const;
  // Ours / the reference's, over the targets.
  double perplexity_ratio() const;
  double reference_perplexity() const;
  // Largest difference of a logit, as a share of the row's range in the
  // reference (largest minus least logit).
  double worst_difference() const { return worst_difference_; }

 private:
  int positions_ = 0;
  int same_top1_ = 0;
  int wide_margins_ = 0;
  int wide_margin_misses_ = 0;
  int targets_ = 0;
  double divergence_ = 0;
  double logprob_ = 0;
  double reference_logprob_ = 0;
  double worst_difference_ = 0;
};

// One line with every figure.
std::ostream& operator<<(std::ostream& out, const LogitsComparison& comparison);

}  // namespace sparseserve
