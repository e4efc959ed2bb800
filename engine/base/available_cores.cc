#include "engine/base/available_cores.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <limits>
#include <memory>

namespace sparseserve {
namespace {

// Above any number of processors that a kernel can be built for.
constexpr int kMostProcessors = 1 << 20;

int RoundedUp(int64_t quota, int64_t period) {
  // Negative: no quota.
  if (quota <= 0 || period <= 0) return 0;
  const int64_t cores = quota / period + (quota % period != 0);
  return static_cast<int>(
      std::min<int64_t>(cores, std::numeric_limits<int>::max()));
}

int AffinityCores() {
  struct Free {
    void operator()(cpu_set_t* set) const { CPU_FREE(set); }
  };
  // The kernel says EINVAL where its own mask is longer than ours.
  for (int processors = CPU_SETSIZE; processors <= kMostProcessors;
       processors *= 2) {
    const std::unique_ptr<cpu_set_t, Free> set(CPU_ALLOC(processors));
    const size_t bytes = CPU_ALLOC_SIZE(processors);
    if (set == nullptr) break;
    if (sched_getaffinity(0, bytes, set.get()) == 0) {
      return std::max(CPU_COUNT_S(bytes, set.get()), 1);
    }
    if (errno != EINVAL) break;
  }
  return 1;
}

}  // namespace

int QuotaCores(const std::string& root) {
  int64_t quota = 0;
  int64_t period = 0;
  // "150000 100000", or "max 100000": then nothing is read.
  if (std::ifstream(root + "/cpu.max") >> quota >> period) {
    return RoundedUp(quota, period);
  }
  if (std::ifstream(root + "/cpu/cpu.cfs_quota_us") >> quota &&
      std::ifstream(root + "/cpu/cpu.cfs_period_us") >> period) {
    return RoundedUp(quota, period);
  }
  return 0;
}

int AvailableCores() {
  const int cores = AffinityCores();
  const int quota = QuotaCores("/sys/fs/cgroup");
  return quota > 0 ? std::min(cores, quota) : cores;
}

}  // namespace sparseserve
