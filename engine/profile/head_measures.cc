#include "engine/profile/head_measures.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/types/span.h"

namespace sparseserve {
namespace {

double Sum(absl::Span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

absl::Span<const float> First(const std::vector<float>& values, int count) {
  return absl::MakeConstSpan(values).first(
      std::min<size_t>(values.size(), count));
}

absl::Span<const float> From(const std::vector<float>& values, int begin) {
  return absl::MakeConstSpan(values).subspan(
      std::min<size_t>(values.size(), begin));
}

// Of the `count` largest.
double SumOfLargest(absl::Span<const float> values, int count) {
  std::vector<float> sorted(values.begin(), values.end());
  const auto middle =
      sorted.begin() + std::min<int64_t>(count, std::ssize(sorted));
  std::partial_sort(sorted.begin(), middle, sorted.end(), std::greater<>());
  return std::accumulate(sorted.begin(), middle, 0.0);
}

double WeightedDistance(const std::vector<float>& distances) {
  double sum = 0;
  for (size_t i = 0; i < distances.size(); ++i) {
    sum += static_cast<double>(i) * distances[i];
  }
  return sum;
}

// The first distance up to which at least `share` of all weight lies.
int32_t DistanceQuantile(const std::vector<float>& distances, double share) {
  const double goal = share * Sum(distances);
  double sum = 0;
  for (size_t i = 0; i < distances.size(); ++i) {
    sum += distances[i];
    if (sum >= goal) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(distances.size()) - 1;
}

void SetDistances(const WeightSums& sums, double rows, HeadMeasures& measures) {
  const double weighted = WeightedDistance(sums.distances);
  measures.mean_distance = weighted / rows;
  measures.median_distance = DistanceQuantile(sums.distances, 0.5);
  measures.distance_90 = DistanceQuantile(sums.distances, 0.9);
  // A head that lays all on the sinks leaves rounding alone.
  const double left = Sum(sums.distances) - Sum(sums.sink_distances);
  if (left > 1e-6 * rows) {
    measures.mean_distance_without_sink =
        std::max(weighted - WeightedDistance(sums.sink_distances), 0.0) / left;
  }
  const int64_t tokens = std::ssize(sums.distances);
  for (int64_t width = 1;; width *= 2) {
    measures.locality.push_back(
        Sum(First(sums.distances, static_cast<int>(width) + 1)) / rows);
    if (width >= tokens - 1) break;
  }
  measures.near_share =
      Sum(First(sums.distances, HeadMeasures::kNearKeys + 1)) / rows;
  measures.slash_share =
      SumOfLargest(From(sums.distances, HeadMeasures::kNearKeys + 1),
                   HeadMeasures::kFewLines) /
      rows;
}

HeadClass ClassOf(const HeadMeasures& measures) {
  const std::pair<double, HeadClass> shares[] = {
      {measures.near_share, HeadClass::kLocal},
      {measures.sink_4, HeadClass::kSink},
      {measures.slash_share, HeadClass::kSlash},
      {measures.vertical_share, HeadClass::kVertical},
      {measures.relative_entropy, HeadClass::kDiffuse}};
  const auto* const largest = std::max_element(
      std::begin(shares), std::end(shares),
      [](const auto& a, const auto& b) { return a.first < b.first; });
  return largest->first < HeadMeasures::kClassShare ? HeadClass::kRetrieval
                                                    : largest->second;
}

}  // namespace

HeadMeasures MeasuresOf(const AttentionProfile& profile, int32_t layer,
                        int32_t head) {
  const WeightSums& sums = profile.sums(layer, head);
  const AttentionProfile::Shape& shape = profile.shape();
  const double rows = static_cast<double>(profile.sampled_rows());
  HeadMeasures measures;
  measures.entropy = sums.entropy / rows;
  measures.relative_entropy = sums.relative_entropy / rows;
  measures.effective_keys = sums.effective_keys / rows;
  SetDistances(sums, rows, measures);
  measures.sink_1 = Sum(First(sums.keys, 1)) / rows;
  measures.sink_4 = Sum(First(sums.keys, kSinkKeys)) / rows;
  measures.sink_64 = Sum(First(sums.keys, 64)) / rows;
  measures.vertical_share =
      SumOfLargest(From(sums.keys, kSinkKeys), HeadMeasures::kFewLines) / rows;

  const double tiles = static_cast<double>(profile.blocks().size());
  for (const double weight : sums.heaviest_blocks) {
    measures.block_recall.push_back(weight / tiles);
  }
  // Rounding may leave the last below 1, not below this.
  const auto below = [](double recall) { return recall < 0.9; };
  measures.blocks_90 =
      1 + static_cast<int32_t>(absl::c_count_if(measures.block_recall, below));
  measures.head_class = ClassOf(measures);

  measures.recall = sums.recall / rows;
  measures.low_recall_share = static_cast<double>(sums.low_recall_rows) / rows;
  const AttentionBlocks& visited =
      profile.visited(layer, head / (shape.heads / shape.kv_heads));
  measures.density = static_cast<double>(visited.computed) /
                     static_cast<double>(visited.allowed);
  return measures;
}

}  // namespace sparseserve
