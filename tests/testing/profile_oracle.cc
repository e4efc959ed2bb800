#include "tests/testing/profile_oracle.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace sparseserve::testing {
namespace {

constexpr int kBlock = 64;

double SumOfLargest(std::map<int, double> values, int count) {
  std::vector<double> sorted;
  for (const auto& [key, value] : values) sorted.push_back(value);
  std::sort(sorted.rbegin(), sorted.rend());
  double sum = 0;
  for (int i = 0; i < count && i < std::ssize(sorted); ++i) sum += sorted[i];
  return sum;
}

int Quantile(const std::map<int, double>& by_distance, double share) {
  double all = 0, sum = 0;
  for (const auto& [distance, weight] : by_distance) all += weight;
  for (const auto& [distance, weight] : by_distance) {
    sum += weight;
    if (sum >= share * all) return distance;
  }
  return by_distance.rbegin()->first;
}

// Of one query block: the cumulative weight of its heaviest key blocks.
std::vector<double> RecallCurve(const WeightMatrix& weights, int first,
                                int end) {
  const int blocks = (static_cast<int>(weights.size()) + kBlock - 1) / kBlock;
  std::vector<double> of_block(blocks);
  for (int row = first; row < end; ++row) {
    for (int key = 0; key <= row; ++key) {
      of_block[key / kBlock] += weights[row][key] / (end - first);
    }
  }
  std::sort(of_block.rbegin(), of_block.rend());
  for (int b = 1; b < blocks; ++b) of_block[b] += of_block[b - 1];
  return of_block;
}

void AddRow(const std::vector<double>& weights, int row, double rows,
            const std::function<bool(int, int)>& is_seen,
            const std::function<bool(int, int)>& is_visited,
            OracleMeasures& measures) {
  double entropy = 0, kept = 0;
  int seen = 0;
  for (int key = 0; key <= row; ++key) {
    const double weight = weights[key];
    if (weight > 0) entropy -= weight * std::log(weight);
    if (is_seen(row, key)) ++seen;
    if (is_visited(row, key)) kept += weight;
    measures.mean_distance += weight * (row - key) / rows;
    if (row - key <= 128) measures.near_share += weight / rows;
    if (key < 1) measures.sink_1 += weight / rows;
    if (key < 4) measures.sink_4 += weight / rows;
    if (key < 64) measures.sink_64 += weight / rows;
    for (size_t k = 0; k < measures.locality.size(); ++k) {
      if (row - key <= 1 << k) measures.locality[k] += weight / rows;
    }
  }
  measures.entropy += entropy / rows;
  measures.effective_keys += std::exp(entropy) / rows;
  if (seen > 1) measures.relative_entropy += entropy / std::log(seen) / rows;
  measures.recall += kept / rows;
  if (kept < 0.5) measures.low_recall_share += 1 / rows;
}

}  // namespace

WeightMatrix Weights(int tokens,
                     const std::function<double(int row, int key)>& score,
                     const std::function<bool(int row, int key)>& is_seen) {
  WeightMatrix weights(tokens);
  for (int row = 0; row < tokens; ++row) {
    weights[row].assign(row + 1, 0.0);
    double greatest = -HUGE_VAL, sum = 0;
    for (int key = 0; key <= row; ++key) {
      weights[row][key] = is_seen(row, key) ? score(row, key) : -HUGE_VAL;
      greatest = std::max(greatest, weights[row][key]);
    }
    for (double& weight : weights[row]) {
      weight = std::exp(weight - greatest);
      sum += weight;
    }
    for (double& weight : weights[row]) weight /= sum;
  }
  return weights;
}

OracleMeasures MeasureMatrix(
    const WeightMatrix& weights, const std::vector<int32_t>& blocks,
    const std::function<bool(int row, int key)>& is_seen,
    const std::function<bool(int row, int key)>& is_visited) {
  const int tokens = static_cast<int>(weights.size());
  OracleMeasures measures;
  for (int width = 1;; width *= 2) {
    measures.locality.push_back(0);
    if (width >= tokens - 1) break;
  }
  double rows = 0;
  for (const int32_t block : blocks) {
    rows += std::min((block + 1) * kBlock, tokens) - block * kBlock;
  }
  std::map<int, double> of_key, of_distance, far_distances;
  double other = 0, other_distance = 0;
  measures.block_recall.assign((tokens + kBlock - 1) / kBlock, 0.0);
  for (const int32_t block : blocks) {
    const int end = std::min((block + 1) * kBlock, tokens);
    for (int row = block * kBlock; row < end; ++row) {
      AddRow(weights[row], row, rows, is_seen, is_visited, measures);
      for (int key = 0; key <= row; ++key) {
        const double weight = weights[row][key] / rows;
        of_distance[row - key] += weight;
        if (row - key > 128) far_distances[row - key] += weight;
        if (key < 4) continue;
        of_key[key] += weight;
        other += weight;
        other_distance += weight * (row - key);
      }
    }
    const std::vector<double> curve = RecallCurve(weights, block * kBlock, end);
    for (size_t b = 0; b < curve.size(); ++b) {
      measures.block_recall[b] += curve[b] / std::ssize(blocks);
    }
  }
  measures.median_distance = Quantile(of_distance, 0.5);
  measures.distance_90 = Quantile(of_distance, 0.9);
  measures.vertical_share = SumOfLargest(of_key, 64);
  measures.slash_share = SumOfLargest(far_distances, 64);
  if (other > 1e-6) {
    measures.mean_distance_without_sink = other_distance / other;
  }
  return measures;
}

}  // namespace sparseserve::testing
