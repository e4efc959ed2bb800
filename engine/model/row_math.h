#pragma once

// Passes over a row of logits, written so that the compiler vectorises them
// for any device's host. Results do not depend on the machine.

#include "absl/types/span.h"

namespace sparseserve {

// False if any value is NaN or infinite.
bool AllFinite(absl::Span<const float> values);

// REQUIRES: not empty, no NaN.
float LargestOf(absl::Span<const float> values);

// weights[i] = exp((values[i] - largest) / temperature), to about one part in
// 10^7; 0 below e^-87. Returns their sum. REQUIRES: largest = LargestOf(values)
// is finite, values may be -infinity, temperature > 0, weights.size() >=
// values.size().
double ExpWeights(absl::Span<const float> values, float largest,
                  float temperature, absl::Span<float> weights);

}  // namespace sparseserve
