#pragma once

namespace sparseserve {

// Of the rules of patterns and the kernels that compute them. Rises with every
// change after which some pattern gives a model other outputs by more than
// rounding: other blocks for the same scores, another score, another default.
// What was measured with one version (plan_profile.proto) does not hold for
// another.
inline constexpr int kKernelVersion = 1;

}  // namespace sparseserve
