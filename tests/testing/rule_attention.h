#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace sparseserve::testing {

// A matrix of doubles.
struct Rows {
  int64_t count = 0;
  int64_t columns = 0;
  std::vector<double> values;  // [count, columns]

  absl::Span<const double> operator[](int64_t row) const {
    return absl::MakeConstSpan(values).subspan(row * columns, columns);
  }
};

// A key that a rule lets a query see.
struct VisibleKey {
  int64_t key = 0;
  // How often the key stands in the sum of the softmax: a published system may
  // gather a key twice, or let one stand for several tokens.
  double count = 1;
  double bias = 0;  // added to the scaled score
};
// Each key at most once, ascending.
using VisibleKeys = std::vector<VisibleKey>;

// Gathers of the same key as one key with their number; `keys` in any order.
VisibleKeys CountKeys(std::vector<int64_t> keys);

struct AttendedRow {
  std::vector<double> output;  // zeros if no key is visible
  double lse = 0;              // minus infinity then
};

// Softmax attention of one query, key by key, in double precision. Scores are
// query * key * scale + bias.
AttendedRow AttendRow(absl::Span<const double> query, const Rows& keys,
                      const Rows& values, double scale,
                      const VisibleKeys& visible);

// One softmax over the keys of all parts, each key as often as parts have it.
AttendedRow MergeByLse(absl::Span<const AttendedRow> parts);

}  // namespace sparseserve::testing
