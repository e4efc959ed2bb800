#include "tests/testing/rule_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace sparseserve::testing {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

}  // namespace

VisibleKeys CountKeys(std::vector<int64_t> keys) {
  std::sort(keys.begin(), keys.end());
  VisibleKeys counted;
  for (const int64_t key : keys) {
    if (!counted.empty() && counted.back().key == key) {
      ++counted.back().count;
    } else {
      counted.push_back({.key = key});
    }
  }
  return counted;
}

AttendedRow AttendRow(absl::Span<const double> query, const Rows& keys,
                      const Rows& values, double scale,
                      const VisibleKeys& visible) {
  AttendedRow row{std::vector<double>(values.columns), kNothing};
  std::vector<double> scores(visible.size());
  double maximum = kNothing;
  for (size_t i = 0; i < visible.size(); ++i) {
    const absl::Span<const double> key = keys[visible[i].key];
    const double dot =
        std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
    scores[i] = dot * scale + visible[i].bias;
    maximum = std::max(maximum, scores[i]);
  }
  if (visible.empty()) return row;
  double sum = 0;
  for (size_t i = 0; i < visible.size(); ++i) {
    const double weight = visible[i].count * std::exp(scores[i] - maximum);
    sum += weight;
    const absl::Span<const double> value = values[visible[i].key];
    for (int64_t c = 0; c < values.columns; ++c) {
      row.output[c] += weight * value[c];
    }
  }
  for (double& value : row.output) value /= sum;
  row.lse = maximum + std::log(sum);
  return row;
}

AttendedRow MergeByLse(absl::Span<const AttendedRow> parts) {
  AttendedRow merged{std::vector<double>(parts[0].output.size()), kNothing};
  double maximum = kNothing;
  for (const AttendedRow& part : parts) maximum = std::max(maximum, part.lse);
  if (maximum == kNothing) return merged;
  double sum = 0;
  for (const AttendedRow& part : parts) {
    const double weight = std::exp(part.lse - maximum);
    sum += weight;
    for (size_t c = 0; c < merged.output.size(); ++c) {
      merged.output[c] += weight * part.output[c];
    }
  }
  for (double& value : merged.output) value /= sum;
  merged.lse = maximum + std::log(sum);
  return merged;
}

}  // namespace sparseserve::testing
