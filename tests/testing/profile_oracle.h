#pragma once

// What a head's attention looks like, from its whole matrix of weights in
// double precision, written from the definitions and sharing nothing with the
// engine.

#include <cstdint>
#include <functional>
#include <vector>

namespace sparseserve::testing {

struct OracleMeasures {
  double entropy = 0;
  double relative_entropy = 0;
  double effective_keys = 0;
  double mean_distance = 0;
  double mean_distance_without_sink = 0;
  int median_distance = 0;
  int distance_90 = 0;
  std::vector<double> locality;  // within 1, 2, 4, ...
  double near_share = 0;         // within 128
  double sink_1 = 0, sink_4 = 0, sink_64 = 0;
  double vertical_share = 0;  // of the 64 heaviest keys from 4 on
  double slash_share = 0;     // of the 64 heaviest distances above 128
  std::vector<double> block_recall;
  double recall = 0;
  double low_recall_share = 0;
};

// Row i of the matrix holds the weights of keys 0 ... i.
using WeightMatrix = std::vector<std::vector<double>>;

// softmax over the keys that are seen of `score(row, key)`.
WeightMatrix Weights(int tokens,
                     const std::function<double(int row, int key)>& score,
                     const std::function<bool(int row, int key)>& is_seen);

// Means over the rows of `blocks`, query blocks of 64; `is_visited` says which
// keys a pattern has visited.
OracleMeasures MeasureMatrix(
    const WeightMatrix& weights, const std::vector<int32_t>& blocks,
    const std::function<bool(int row, int key)>& is_seen,
    const std::function<bool(int row, int key)>& is_visited);

}  // namespace sparseserve::testing
