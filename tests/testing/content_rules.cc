#include "tests/testing/content_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace sparseserve::testing {
namespace {

// Places of a closed ring of chunks: those of the chunk that `place` lies in
// and of its neighbours.
std::vector<int64_t> PlacesAround(int64_t place, int64_t places, int64_t chunk,
                                  int64_t before, int64_t after) {
  const int64_t chunks = places / chunk;
  std::vector<int64_t> around;
  for (int64_t step = -before; step <= after; ++step) {
    const int64_t at = (place / chunk + step + chunks) % chunks;
    for (int64_t i = 0; i < chunk; ++i) around.push_back(at * chunk + i);
  }
  return around;
}

// The indices of the `count` largest, ascending, of those that are real.
std::vector<int64_t> Largest(const std::vector<double>& scores, int64_t count,
                             const std::vector<bool>& real = {}) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order,
                [&](int64_t index) { return !real.empty() && !real[index]; });
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  order.resize(std::min<size_t>(order.size(), count));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

std::vector<int64_t> ReformerLshRule::Order() const {
  std::vector<int64_t> all;
  for (const auto& round : buckets) {
    all.insert(all.end(), round.begin(), round.end());
  }
  std::vector<int64_t> order(all.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return all[a] < all[b]; });
  return order;
}

VisibleKeys ReformerLshRule::Keys(int64_t round, int64_t row) const {
  const int64_t tokens = static_cast<int64_t>(real.size());
  std::vector<int64_t> gathered;
  if (tokens <= chunk) {
    for (int64_t key = 0; key < tokens; ++key) gathered.push_back(key);
  } else {
    const std::vector<int64_t> order = Order();
    const int64_t place =
        std::find(order.begin(), order.end(), round * tokens + row) -
        order.begin();
    for (const int64_t at :
         PlacesAround(place, static_cast<int64_t>(order.size()), chunk,
                      chunks_before, chunks_after)) {
      gathered.push_back(order[at] % tokens);
    }
  }
  std::vector<int64_t> others, self;
  for (const int64_t key : gathered) {
    if (key == row) {
      self.push_back(key);
    } else if (real[key] && (!causal || key <= row)) {
      others.push_back(key);
    }
  }
  if (!others.empty()) return CountKeys(others);
  VisibleKeys keys = CountKeys(self);
  for (VisibleKey& seen : keys) seen.bias = kSelf;
  return keys;
}

VisibleKeys ReformerLocalRule::Keys(int64_t row) const {
  const int64_t tokens = static_cast<int64_t>(real.size());
  std::vector<int64_t> gathered;
  if (tokens <= chunk) {
    for (int64_t key = 0; key < tokens; ++key) gathered.push_back(key);
  } else {
    gathered = PlacesAround(row, tokens, chunk, chunks_before, chunks_after);
  }
  std::erase_if(gathered, [&](int64_t key) {
    return !real[key] || (causal && key > row);
  });
  return CountKeys(gathered);
}

std::vector<int64_t> RoutingRule::ClustersOf(int64_t row) const {
  std::vector<int64_t> clusters;
  for (size_t c = 0; c < query_scores.size(); ++c) {
    const std::vector<int64_t> taken = Largest(query_scores[c], capacity, real);
    if (std::find(taken.begin(), taken.end(), row) != taken.end()) {
      clusters.push_back(static_cast<int64_t>(c));
    }
  }
  return clusters;
}

VisibleKeys RoutingRule::Keys(int64_t cluster, int64_t row) const {
  VisibleKeys keys;
  for (const int64_t key : Largest(key_scores[cluster], capacity, real)) {
    if (!causal || key <= row) keys.push_back({.key = key});
  }
  return keys;
}

VisibleKeys MobaRule::Keys(int64_t row, absl::Span<const double> query,
                           const Rows& keys) const {
  const int64_t own = row / block;
  std::vector<double> scores;
  for (int64_t b = 0; b < own; ++b) {
    double score = 0;
    for (int64_t key = b * block; key < (b + 1) * block; ++key) {
      score += std::inner_product(query.begin(), query.end(), keys[key].begin(),
                                  0.0);
    }
    scores.push_back(score);
  }
  std::vector<int64_t> chosen = Largest(scores, most_blocks - 1);
  chosen.push_back(own);
  VisibleKeys seen;
  for (const int64_t b : chosen) {
    for (int64_t key = b * block; key < (b + 1) * block && key <= row; ++key) {
      seen.push_back({.key = key});
    }
  }
  return seen;
}

}  // namespace sparseserve::testing
