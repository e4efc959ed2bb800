#pragma once

#include <vector>

#include "absl/types/span.h"

namespace sparseserve {

// Of samples that are drawn independently of each other. Pure; any thread.

// REQUIRES: not empty.
double MeanOf(absl::Span<const double> values);

// The value at `share` of the way from the least to the greatest, between
// neighbours in proportion. REQUIRES: not empty, 0 <= share <= 1.
double QuantileOf(std::vector<double> values, double share);

// Upper end of the one-sided 95 % confidence interval of the mean by Student's
// t: of repeated samples 95 % have the mean they are drawn from below it, as
// far as means of so many are near to normal. Of one value, which says nothing
// of how far others are from it, ten times that. REQUIRES: not empty.
double UpperBoundOfMean(absl::Span<const double> values);

}  // namespace sparseserve
