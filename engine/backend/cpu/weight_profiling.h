#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/profile_kernels.h"
#include "engine/base/thread_pool.h"

namespace sparseserve::cpu {

// Adds up attention weights. Work is split over heads, so that each sum has one
// worker and does not depend on their number; a worker's memory grows with the
// context alone. Used by one thread.
class WeightProfiling {
 public:
  // `rounds_queries`: attention takes prefill rows' queries over KV in bf16 as
  // bf16, so their log-sum-exp is that of rounded ones.
  WeightProfiling(SimdLevel simd, bool rounds_queries, ThreadPool& pool);

  void Run(const ProfileArgs& args);

 private:
  // One worker's.
  struct Scratch {
    ProfileScratch kernel;
    std::vector<float> queries;        // a tile's, where they are rounded
    std::vector<double> blocks;        // weight of a tile's KV blocks
    std::vector<float> row;            // a row's weights, by position
    std::vector<AttendedKey> ordered;  // of that row
  };

  void BeginTile(const ProfileArgs& args, const QueryTile& tile, int32_t head,
                 Scratch& scratch) const;
  void RunTile(const ProfileArgs& args, const ProfileTile& tile, int32_t head,
               Scratch& scratch) const;
  // The block's weights of the tile, into the scratch and the tile's sums.
  void AddBlock(const ProfileArgs& args, const ProfileTile& tile, int32_t head,
                int32_t block, Scratch& scratch) const;

  const ProfileKernels& kernels_;
  const bool rounds_queries_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<Scratch>> scratch_;  // one per worker
};

}  // namespace sparseserve::cpu
