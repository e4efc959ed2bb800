#include "engine/pattern/routing_passes.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/types/span.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"

namespace sparseserve {
namespace {

using Keys = MaskedLayoutBuilder::Keys;

absl::Status CheckTaken(std::string_view name, const RoutingClusters& clusters,
                        const std::vector<int32_t>& taken) {
  const int64_t of_cluster = clusters.taken;
  const int64_t wanted =
      int64_t{clusters.heads} * clusters.clusters * of_cluster;
  if (static_cast<int64_t>(taken.size()) != wanted) {
    return absl::InvalidArgumentError(
        StrCat("routing: ", taken.size(), " ", name, ", not ", wanted));
  }
  for (int64_t i = 0; i < wanted; ++i) {
    const int32_t least = i % of_cluster == 0 ? 0 : taken[i - 1] + 1;
    if (taken[i] >= least && taken[i] < clusters.tokens) continue;
    return absl::InvalidArgumentError(
        StrCat("routing: cluster ", i / of_cluster % clusters.clusters,
               " of head ", i / of_cluster / clusters.clusters, " took token ",
               taken[i], " of the ", name, "; allowed: ", least, " to ",
               clusters.tokens - 1, ", ascending"));
  }
  return absl::OkStatus();
}

absl::Status CheckClusters(const RoutingPattern& pattern,
                           const RoutingClusters& clusters) {
  RETURN_IF_ERROR(CheckSequence(pattern, clusters.tokens, clusters.heads));
  const int32_t most = std::min(pattern.capacity, clusters.tokens);
  if (clusters.taken < 0 || clusters.taken > most) {
    return absl::InvalidArgumentError(
        StrCat("routing: ", clusters.taken,
               " tokens taken by each cluster; allowed: 0 to ", most));
  }
  RETURN_IF_ERROR(CheckRoutingSize(clusters));
  RETURN_IF_ERROR(CheckTaken("queries", clusters, clusters.queries));
  return CheckTaken("keys", clusters, clusters.keys);
}

// What the slots of a tile see, as long as it lies in one head's clusters.
class ClusterRows {
 public:
  ClusterRows(const RoutingPattern& pattern, const AttentionPass& pass,
              int64_t taken)
      : pattern_(pattern), pass_(pass), taken_(taken) {}

  void Show(const QueryTile& tile, MaskedLayoutBuilder& builder) const {
    const int64_t end = int64_t{tile.first_row} + tile.rows;
    for (int64_t slot = tile.first_row; slot < end;) {
      const Keys cluster = {slot / taken_ * taken_,
                            (slot / taken_ + 1) * taken_};
      const int64_t stop =
          pattern_.is_causal ? slot + 1 : std::min(end, cluster.end);
      builder.Show({static_cast<int32_t>(slot - tile.first_row),
                    static_cast<int32_t>(stop - tile.first_row)},
                   pattern_.is_causal ? Before(slot, cluster) : cluster);
      slot = stop;
    }
  }

 private:
  // The keys of a cluster that lie at or before a slot's query.
  Keys Before(int64_t slot, const Keys& cluster) const {
    const auto begin = pass_.key_tokens.begin();
    const auto end = std::upper_bound(
        begin + cluster.begin, begin + cluster.end, pass_.query_tokens[slot]);
    return {cluster.begin, end - begin};
  }

  const RoutingPattern& pattern_;
  const AttentionPass& pass_;
  const int64_t taken_;
};

AttentionPass PassOf(const RoutingPattern& pattern,
                     const RoutingClusters& clusters, int32_t head) {
  const int64_t slots = int64_t{clusters.clusters} * clusters.taken;
  const auto of_head = [&](const std::vector<int32_t>& taken) {
    const auto begin = taken.begin() + head * slots;
    return std::vector<int32_t>(begin, begin + slots);
  };
  AttentionPass pass;
  pass.heads = {head};
  pass.query_tokens = of_head(clusters.queries);
  pass.key_tokens = of_head(clusters.keys);
  const ClusterRows rows(pattern, pass, clusters.taken);
  MaskedLayoutBuilder builder(1, HasToken(pass.key_tokens));
  for (const QueryTile& tile : TilesOf(pass.query_tokens)) {
    builder.BeginList(tile.rows);
    rows.Show(tile, builder);
    const int32_t list = builder.EndList();
    if (list >= 0) builder.AddTile(tile, {list});
  }
  pass.layout = builder.TakeLayout();
  return pass;
}

}  // namespace

absl::StatusOr<AttentionPasses> RoutingPasses(const RoutingPattern& pattern,
                                              const RoutingClusters& clusters) {
  RETURN_IF_ERROR(CheckClusters(pattern, clusters));
  AttentionPasses passes = {.tokens = clusters.tokens,
                            .heads = clusters.heads,
                            .combiner = PassCombiner::kMean};
  if (clusters.taken == 0) return passes;
  for (int32_t head = 0; head < clusters.heads; ++head) {
    passes.passes.push_back(PassOf(pattern, clusters, head));
  }
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
