#include "tests/testing/etc_rule.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

namespace sparseserve::testing {
namespace {

int64_t DistanceLabel(int64_t row, int64_t key, int64_t max_distance) {
  const int64_t clipped = std::min(std::abs(key - row), max_distance);
  return key >= row ? clipped : max_distance + clipped;
}

std::vector<LabelledKey> Seen(const std::vector<int64_t>& labels) {
  std::vector<LabelledKey> seen;
  for (size_t key = 0; key < labels.size(); ++key) {
    if (labels[key] >= 0) {
      seen.push_back({static_cast<int64_t>(key), labels[key]});
    }
  }
  return seen;
}

}  // namespace

std::vector<LabelledKey> EtcRule::LongToLong(int64_t row) const {
  std::vector<LabelledKey> seen;
  for (int64_t key = 0; key < static_cast<int64_t>(segments.size()); ++key) {
    if (std::abs(row - key) <= radius && segments[row] == segments[key]) {
      seen.push_back({key, DistanceLabel(row, key, max_distance)});
    }
  }
  return seen;
}

std::vector<LabelledKey> EtcRule::LongToGlobal(int64_t row) const {
  return Seen(long_to_global[row]);
}

std::vector<LabelledKey> EtcRule::GlobalToGlobal(int64_t row) const {
  std::vector<LabelledKey> seen;
  for (int64_t key = 0; key < global_tokens; ++key) {
    seen.push_back({key, DistanceLabel(row, key, max_distance)});
  }
  return seen;
}

std::vector<LabelledKey> EtcRule::GlobalToLong(int64_t row) const {
  return Seen(global_to_long[row]);
}

AttendedRow AttendEtcRow(absl::Span<const double> query,
                         absl::Span<const EtcPiece> pieces,
                         const EtcLabels& labels) {
  const double scale = 1 / std::sqrt(static_cast<double>(query.size()));
  Rows keys{0, static_cast<int64_t>(query.size()), {}};
  Rows values{0, pieces[0].values.columns, {}};
  VisibleKeys visible;
  for (const EtcPiece& piece : pieces) {
    for (const LabelledKey& seen : piece.seen) {
      const auto label_key = labels.keys[seen.label];
      const double dot = std::inner_product(query.begin(), query.end(),
                                            label_key.begin(), 0.0);
      visible.push_back({.key = keys.count++,
                         .bias = (dot + labels.biases[seen.label]) * scale});
      const auto key = piece.keys[seen.key];
      const auto value = piece.values[seen.key];
      keys.values.insert(keys.values.end(), key.begin(), key.end());
      values.values.insert(values.values.end(), value.begin(), value.end());
    }
  }
  values.count = keys.count;
  return AttendRow(query, keys, values, scale, visible);
}

}  // namespace sparseserve::testing
