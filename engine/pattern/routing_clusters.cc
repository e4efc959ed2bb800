#include "engine/pattern/routing_clusters.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

// Of tokens and all elements of centroids, which is what time follows: 65,536
// tokens, 256 clusters in each of 16 heads of 64 elements.
constexpr int64_t kMaxProducts = int64_t{1} << 34;

absl::Status CheckMatrix(std::string_view name, const ConstMatrixView& matrix,
                         int64_t rows, int64_t columns) {
  if (matrix.rows != rows || matrix.columns != columns) {
    return absl::InvalidArgumentError(StrCat("routing: ", name, " are ",
                                             matrix.rows, " x ", matrix.columns,
                                             ", not ", rows, " x ", columns));
  }
  for (int64_t row = 0; row < rows; ++row) {
    const float* values = matrix.row(row);
    const float* found =
        std::find_if(values, values + columns,
                     [](float value) { return !std::isfinite(value); });
    if (found == values + columns) continue;
    return absl::InvalidArgumentError(StrCat("routing: ", name, ", row ", row,
                                             ", column ", found - values,
                                             " is ", *found, ", not finite"));
  }
  return absl::OkStatus();
}

// The number of clusters, if all fits.
absl::StatusOr<int32_t> CheckVectors(const RoutingPattern& pattern,
                                     const RoutingVectors& vectors) {
  const auto tokens = static_cast<int64_t>(vectors.is_real.size());
  RETURN_IF_ERROR(CheckSequence(pattern, tokens, vectors.heads));
  if (vectors.head_dim < 1 || vectors.head_dim > kMaxEncoderHeadDim) {
    return absl::InvalidArgumentError(
        StrCat("routing: head_dim is ", vectors.head_dim, "; allowed: 1 to ",
               kMaxEncoderHeadDim));
  }
  const int64_t width = int64_t{vectors.heads} * vectors.head_dim;
  const auto given = static_cast<int64_t>(vectors.centroids.size());
  const int64_t clusters = given / width;
  if (given == 0 || given % width != 0) {
    return absl::InvalidArgumentError(
        StrCat("routing: centroids of ", given,
               " elements; allowed: a multiple of heads * head_dim, ", width));
  }
  if (clusters > kMaxProducts / (width * tokens)) {
    return absl::InvalidArgumentError(
        StrCat("routing: ", clusters, " clusters of ", vectors.heads,
               " heads of ", vectors.head_dim, " elements for ", tokens,
               " tokens; allowed: ", kMaxProducts, " of their product"));
  }
  RETURN_IF_ERROR(CheckMatrix("queries", vectors.queries, tokens, width));
  RETURN_IF_ERROR(CheckMatrix("keys", vectors.keys, tokens, width));
  RETURN_IF_ERROR(CheckMatrix(
      "centroids",
      {vectors.centroids.data(), vectors.heads * clusters, vectors.head_dim},
      vectors.heads * clusters, vectors.head_dim));
  return static_cast<int32_t>(clusters);
}

double Dot(const float* a, const float* b, int32_t size) {
  double sum = 0;
  for (int32_t i = 0; i < size; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// Chooses among the tokens' vectors of one head.
class Chooser {
 public:
  Chooser(const RoutingVectors& vectors, const std::vector<int32_t>& real,
          const ConstMatrixView& matrix, int32_t head)
      : real_(real),
        matrix_(matrix),
        head_dim_(vectors.head_dim),
        column_(int64_t{head} * vectors.head_dim) {
    for (const int32_t token : real) {
      const double length = std::sqrt(Dot(VectorOf(token), VectorOf(token)));
      // A vector of zeros has no direction: it is as near as any.
      inverse_lengths_.push_back(length > 0 ? 1 / length : 0);
    }
  }

  // Appends the `count` nearest to a centroid, ascending.
  void AppendNearest(const float* centroid, int32_t count,
                     std::vector<int32_t>& chosen) {
    nearest_.clear();
    for (size_t i = 0; i < real_.size(); ++i) {
      nearest_.push_back(
          {Dot(VectorOf(real_[i]), centroid) * inverse_lengths_[i], real_[i]});
    }
    std::nth_element(nearest_.begin(), nearest_.begin() + count - 1,
                     nearest_.end(), [](const Scored& a, const Scored& b) {
                       if (a.score != b.score) return a.score > b.score;
                       return a.token < b.token;
                     });
    const auto first = static_cast<int64_t>(chosen.size());
    for (int32_t i = 0; i < count; ++i) chosen.push_back(nearest_[i].token);
    std::sort(chosen.begin() + first, chosen.end());
  }

 private:
  struct Scored {
    double score = 0;
    int32_t token = 0;
  };

  const float* VectorOf(int32_t token) const {
    return matrix_.row(token) + column_;
  }
  double Dot(const float* a, const float* b) const {
    return sparseserve::Dot(a, b, head_dim_);
  }

  const std::vector<int32_t>& real_;
  const ConstMatrixView& matrix_;
  const int32_t head_dim_;
  const int64_t column_;
  std::vector<double> inverse_lengths_;  // [real tokens]
  std::vector<Scored> nearest_;
};

}  // namespace

absl::Status CheckRoutingSize(const RoutingClusters& clusters) {
  if (clusters.clusters < 1 || clusters.clusters > kMaxEncoderTokens) {
    return absl::InvalidArgumentError(StrCat("routing: ", clusters.clusters,
                                             " clusters; allowed: 1 to ",
                                             kMaxEncoderTokens));
  }
  const int64_t slots = int64_t{clusters.clusters} * clusters.taken;
  const int64_t tiles = BlocksOfAligned(slots);
  const int64_t of_tile =
      std::min(tiles, MostBlocksOf(kPageTokens + 2 * int64_t{clusters.taken}));
  return CheckPassesSize("routing",
                         {.slots = clusters.heads * slots,
                          .blocks = clusters.heads * tiles * of_tile});
}

absl::StatusOr<RoutingClusters> ChooseRoutingClusters(
    const RoutingPattern& pattern, const RoutingVectors& vectors) {
  ASSIGN_OR_RETURN(const int32_t clusters, CheckVectors(pattern, vectors));
  std::vector<int32_t> real;
  for (size_t token = 0; token < vectors.is_real.size(); ++token) {
    if (vectors.is_real[token]) real.push_back(static_cast<int32_t>(token));
  }
  RoutingClusters chosen = {
      .heads = vectors.heads,
      .clusters = clusters,
      .tokens = static_cast<int32_t>(vectors.is_real.size()),
      .taken = std::min(pattern.capacity, static_cast<int32_t>(real.size()))};
  RETURN_IF_ERROR(CheckRoutingSize(chosen));
  if (chosen.taken == 0) return chosen;
  for (int32_t head = 0; head < vectors.heads; ++head) {
    Chooser queries(vectors, real, vectors.queries, head);
    Chooser keys(vectors, real, vectors.keys, head);
    for (int32_t cluster = 0; cluster < clusters; ++cluster) {
      const float* centroid =
          vectors.centroids.data() +
          (int64_t{head} * clusters + cluster) * vectors.head_dim;
      queries.AppendNearest(centroid, chosen.taken, chosen.queries);
      keys.AppendNearest(centroid, chosen.taken, chosen.keys);
    }
  }
  return chosen;
}

}  // namespace sparseserve
