#pragma once

#include <cstdint>
#include <vector>

#include "engine/attention/pass_attention.h"
#include "tests/testing/rule_attention.h"

namespace sparseserve {

// One sequence's projections, [heads] of [tokens, head_dim] each. Those for
// global tokens may be empty.
struct HeadRows {
  std::vector<testing::Rows> q, k, v;
};

// [heads][tokens, head_dim] as [tokens, heads * head_dim].
std::vector<float> Interleaved(const std::vector<testing::Rows>& heads);

// Random ones whose elements are floats; queries that are `query_scale` times
// as long.
HeadRows DrawHeads(int heads, int tokens, int head_dim, double query_scale,
                   uint32_t seed);

struct AttendedPasses {
  std::vector<testing::Rows> output;     // [heads]
  std::vector<std::vector<double>> lse;  // [heads][tokens]
};

// What a backend makes of passes in floats, with keys and values stored in
// `kv_dtype`.
AttendedPasses Attend(Backend& backend, const AttentionPasses& passes,
                      const std::vector<HeadRows>& projections, double scale,
                      DType kv_dtype = DType::kF32);

// The length of the difference as share of the wanted row's, which must not be
// 0; infinite if it is NaN.
double RowError(absl::Span<const double> found,
                absl::Span<const double> wanted);

}  // namespace sparseserve
