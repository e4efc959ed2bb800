#pragma once

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"
#include "engine/pattern/routing_clusters.h"

namespace sparseserve {

// A pass for each head, its clusters' tokens one cluster after another: a token
// has a slot in each cluster that took its query, where it sees the keys that
// the cluster took, of a causal pattern those at or before it. Its output is
// the mean of its slots, of which one that sees nothing is zero, as is the
// output of a token that no cluster took. Clusters choose from the whole
// sequence: a causal pattern too changes with the tokens behind a row.
// INVALID_ARGUMENT names what does not fit.
absl::StatusOr<AttentionPasses> RoutingPasses(const RoutingPattern& pattern,
                                              const RoutingClusters& clusters);

}  // namespace sparseserve
