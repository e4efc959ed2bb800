// Prefill attention with copies that come late, and with products that begin
// late: results must not depend on who waits for whom.

#include <cstdint>
#include <memory>
#include <random>

#include "engine/backend/cuda/hopper_prefill_launch.cuh"
#include "tests/engine/backend/cuda/attention_comparison.h"
#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/list_kinds.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

// Now and then, up to 8 microseconds. Warps of a warpgroup wait apart.
__device__ void SleepAtRandom() {
  const unsigned mixed =
      (static_cast<unsigned>(clock64()) + threadIdx.x / 32) * 2654435761u;
  if (mixed >> 30 == 0) __nanosleep(mixed % 8000);
}

struct LateCopies : FullSpeed {
  __device__ static void BeforeCopy() { SleepAtRandom(); }
};
struct LateProducts : FullSpeed {
  __device__ static void BeforeProducts() { SleepAtRandom(); }
};
// Both, where warpgroups do not take turns. Nothing is far below anything here.
struct LateSkipping : SkippingBlocks {
  __device__ static void BeforeCopy() { SleepAtRandom(); }
  __device__ static void BeforeProducts() { SleepAtRandom(); }
};

template <int kHeadDim, class Pace>
void MatchesReference(const char* name, TestReport& report) {
  const LaunchStatus allowed = AllowSharedMemory<kHeadDim, Pace>();
  report.Expect(allowed.ok(), "%s", allowed.message().c_str());
  const DeviceArray<std::int32_t> counters(std::vector<std::int32_t>{0, 0});
  std::mt19937 random(7);
  for (ListKind kind : {ListKind::kDense, ListKind::kMasked}) {
    HostBatch batch =
        MakeBatch({kHeadDim, 2, 3, {{300, 200}, {0, 64}, {700, 1}}}, random);
    FillLists(kind, random, batch);
    // Few thread blocks, so that each has several items.
    ExpectAttention(
        batch, std::string(name) + " " + NameOf(kind),
        [&](const PrefillAttentionArgs& args) {
          return LaunchPrefill<kHeadDim, Pace>(args, 5, counters.data(),
                                               nullptr);
        },
        report);
  }
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  using namespace sparseserve::cuda;
  if (!HasHopper()) return kSkipped;
  TestReport report;
  MatchesReference<64, LateCopies>("d64 late copies", report);
  MatchesReference<64, LateProducts>("d64 late products", report);
  MatchesReference<128, LateCopies>("d128 late copies", report);
  MatchesReference<128, LateProducts>("d128 late products", report);
  MatchesReference<128, LateSkipping>("d128 late, skipping", report);
  return report.Finish("hopper_prefill_pace_test");
}
