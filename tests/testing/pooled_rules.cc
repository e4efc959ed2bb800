#include "tests/testing/pooled_rules.h"

#include <algorithm>
#include <numeric>

namespace sparseserve::testing {
namespace {

// The mean of some rows.
std::vector<double> Mean(const Rows& rows, const std::vector<int64_t>& some) {
  std::vector<double> mean(rows.columns);
  for (const int64_t row : some) {
    for (int64_t c = 0; c < rows.columns; ++c) {
      mean[c] += rows[row][c] / static_cast<double>(some.size());
    }
  }
  return mean;
}

}  // namespace

AttendedRow HTransformerRule::Attend(int64_t row, const Rows& queries,
                                     const Rows& keys, const Rows& values,
                                     double scale) const {
  const auto real_of = [&](int64_t first, int64_t count) {
    std::vector<int64_t> some;
    for (int64_t key = first; key < std::min(first + count, keys.count);
         ++key) {
      if (real.empty() || real[key]) some.push_back(key);
    }
    return some;
  };
  VisibleKeys near;
  for (const int64_t key :
       real_of(row / (2 * block) * (2 * block), 2 * block)) {
    if (!causal || key <= row) near.push_back({.key = key});
  }
  std::vector<AttendedRow> levels = {
      AttendRow(queries[row], keys, values, scale, near)};
  for (int64_t tokens = 2; tokens * block < keys.count; tokens *= 2) {
    const int64_t ancestor = row / (tokens * block);
    const int64_t sibling = ancestor % 2 == 0 ? ancestor + 1 : ancestor - 1;
    if (causal && sibling > ancestor) continue;
    Rows mean_keys{0, keys.columns, {}};
    Rows mean_values{0, values.columns, {}};
    VisibleKeys all;
    for (int64_t i = 0; i < block; ++i) {
      const std::vector<int64_t> some =
          real_of(sibling * tokens * block + i * tokens, tokens);
      if (some.empty()) continue;
      const std::vector<double> key = Mean(keys, some);
      const std::vector<double> value = Mean(values, some);
      mean_keys.values.insert(mean_keys.values.end(), key.begin(), key.end());
      mean_values.values.insert(mean_values.values.end(), value.begin(),
                                value.end());
      all.push_back({.key = mean_keys.count++,
                     .count = static_cast<double>(some.size())});
    }
    mean_values.count = mean_keys.count;
    const std::vector<double> query =
        Mean(queries, real_of(row / tokens * tokens, tokens));
    levels.push_back(AttendRow(query, mean_keys, mean_values, scale, all));
  }
  return MergeByLse(levels);
}

VisibleKeys NsaRule::Compressed(int64_t row) const {
  VisibleKeys keys;
  for (int64_t key = 0; key * stride + compressed_tokens <= row + 1; ++key) {
    keys.push_back({.key = key});
  }
  return keys;
}

std::vector<int64_t> NsaRule::Blocks(
    int64_t row, const std::vector<std::vector<double>>& weights) const {
  const int64_t own = row / block;
  std::vector<double> scores(own + 1);
  for (int64_t b = 0; b <= own; ++b) {
    for (const std::vector<double>& head : weights) {
      for (size_t key = 0; key < head.size(); ++key) {
        const int64_t first = static_cast<int64_t>(key) * stride;
        const int64_t shared =
            std::min(first + compressed_tokens, (b + 1) * block) -
            std::max(first, b * block);
        if (shared > 0) {
          scores[b] += head[key] * static_cast<double>(shared / stride);
        }
      }
    }
  }
  const auto forced = [own](int64_t b) { return b == 0 || b >= own - 1; };
  std::vector<int64_t> order(own + 1);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    if (forced(a) != forced(b)) return forced(a);
    return scores[a] > scores[b];
  });
  order.resize(std::min<size_t>(order.size(), most_blocks));
  std::sort(order.begin(), order.end());
  return order;
}

VisibleKeys NsaRule::Selected(int64_t row,
                              const std::vector<int64_t>& blocks) const {
  VisibleKeys keys;
  for (const int64_t b : blocks) {
    for (int64_t key = b * block; key < (b + 1) * block && key <= row; ++key) {
      keys.push_back({.key = key});
    }
  }
  return keys;
}

VisibleKeys NsaRule::Window(int64_t row) const {
  VisibleKeys keys;
  for (int64_t key = std::max<int64_t>(0, row - window + 1); key <= row;
       ++key) {
    keys.push_back({.key = key});
  }
  return keys;
}

}  // namespace sparseserve::testing
