#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/pattern/encoder_patterns.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve {

// Which tokens the clusters of a layer's heads took.
struct RoutingClusters {
  int32_t heads = 0;
  int32_t clusters = 0;  // of a head
  int32_t tokens = 0;    // of the sequence, padding among them
  // By each cluster: the pattern's capacity, or all real tokens if those are
  // fewer.
  int32_t taken = 0;
  // [heads, clusters, taken], ascending within a cluster.
  std::vector<int32_t> queries;
  std::vector<int32_t> keys;
};

// INVALID_ARGUMENT if their numbers, or what their passes come to, are out of
// range. REQUIRES: heads, tokens and taken are not.
absl::Status CheckRoutingSize(const RoutingClusters& clusters);

// What clusters choose from.
struct RoutingVectors {
  int32_t heads = 0;
  int32_t head_dim = 0;
  std::vector<bool> is_real;  // [tokens]; false for padding
  ConstMatrixView queries;    // [tokens, heads * head_dim]
  ConstMatrixView keys;
  absl::Span<const float> centroids;  // [heads, clusters, head_dim]
};

// Each cluster takes the queries, and the keys, whose direction lies nearest to
// its centroid: by the product of the centroid and the vector, which is brought
// to length 1 before; of equals the earlier token. Sums are double and in the
// order of elements, so that a choice does not depend on the machine's vectors.
// INVALID_ARGUMENT names what does not fit, or is not finite, or would take
// minutes.
absl::StatusOr<RoutingClusters> ChooseRoutingClusters(
    const RoutingPattern& pattern, const RoutingVectors& vectors);

}  // namespace sparseserve
