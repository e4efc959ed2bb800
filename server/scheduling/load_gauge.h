#pragma once

#include "engine/base/mutex.h"
#include "engine/step.h"

namespace sparseserve {

// How full the server is, as its serving loop saw it last: what clients and
// gateways may be told. Thread-safe.
class LoadGauge {
 public:
  struct Load {
    int running = 0;         // requests in the batch
    int waiting = 0;         // for a place, stopped ones too
    double kv_usage = 0;     // share of the pages that requests hold
    AttentionBlocks blocks;  // of all steps so far
  };

  Load load() const {
    MutexLock lock(mu_);
    return load_;
  }
  void SetRequests(int running, int waiting, double kv_usage) {
    MutexLock lock(mu_);
    load_.running = running;
    load_.waiting = waiting;
    load_.kv_usage = kv_usage;
  }
  void AddBlocks(const AttentionBlocks& blocks) {
    MutexLock lock(mu_);
    load_.blocks.computed += blocks.computed;
    load_.blocks.allowed += blocks.allowed;
  }

 private:
  mutable Mutex mu_;
  Load load_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sparseserve
