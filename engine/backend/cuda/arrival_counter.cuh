#pragma once

// Who comes last of several thread blocks.

#include <cstdint>

namespace sparseserve::cuda {

// Adds one; how often that was done before. What this thread has seen done is
// then seen by whoever counts later; what those before had is seen by this
// thread, and after a barrier by those that wait for it, unless they look into
// caches that do not see what other multiprocessors write.
__device__ __forceinline__ int CountUp(std::int32_t* counter) {
  int before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(counter)
               : "memory");
  return before;
}

}  // namespace sparseserve::cuda
