#pragma once

#include <cstdint>
#include <vector>

#include "engine/attention/attention_plan.h"
#include "engine/backend/backend.h"
#include "engine/layout/layout_builder.h"

namespace sparseserve {

// Adds what a step's slices do to their profiles, a layer at a time, in two
// sweeps over the keys of the sampled query blocks: one for the rows'
// log-sum-exp, which a dense slice has already, one for the weights. Keeps its
// memory between steps. One thread.
class AttentionProfiler {
 public:
  AttentionProfiler(Backend& backend, int32_t kv_heads)
      : backend_(backend), dense_(kv_heads) {}

  // `attention` ran, with lse. `dense` has room for the output and the lse of
  // another pass over the same rows; its layout is not looked at.
  // REQUIRES: the slices passed CheckSlice().
  void Measure(int32_t layer, const AttentionPlan& plan,
               const AttentionArgs& attention, AttentionArgs dense);

 private:
  // Tiles of the slice's sampled blocks, then of its queries.
  void AddTiles(int32_t layer, const AttentionPlan::Profiled& slice);
  // Whether the query's row is in the tile of a sampled block: no row may be in
  // two tiles of one pass.
  bool IsSampled(const QueryTile& query) const;
  void AddDenseTile(const QueryTile& tile, int32_t window_tokens);

  Backend& backend_;
  // Of the layer at hand.
  std::vector<ProfileTile> tiles_;
  LayoutBuilder dense_;
};

}  // namespace sparseserve
