#pragma once

// Barriers in shared memory, copies by the tensor memory accelerator that
// arrive on them, and hand-overs between warps. Compute capability 9.0a.

#include <cuda.h>

#include <cstdint>

namespace sparseserve::cuda {

__device__ __forceinline__ std::uint32_t SharedAddress(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// A barrier whose phases end when `count` arrivals and the bytes that were
// announced have come. The phase that is under way first has parity 0, so a
// wait for parity 1 passes on a fresh barrier.
class Barrier {
 public:
  __device__ __forceinline__ void Init(std::uint32_t count) {
    asm volatile(
        "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&state_)),
        "r"(count)
        : "memory");
  }
  __device__ __forceinline__ void Arrive() {
    asm volatile(
        "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(&state_))
        : "memory");
  }
  // One arrival, once all cp.async copies that this thread queued have come. It
  // says nothing of what the thread itself wrote.
  __device__ __forceinline__ void ArriveAfterCopies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                     SharedAddress(&state_))
                 : "memory");
  }
  // One arrival; the phase also waits for so many bytes.
  __device__ __forceinline__ void ArriveExpecting(std::uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     SharedAddress(&state_)),
                 "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ void Wait(std::uint32_t parity) {
    while (!HasPassed(parity)) {
    }
  }
  __device__ __forceinline__ std::uint32_t address() const {
    return SharedAddress(&state_);
  }

 private:
  __device__ __forceinline__ bool HasPassed(std::uint32_t parity) {
    std::uint32_t passed;
    asm volatile(
        "{\n"
        ".reg .pred passed;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 passed, [%1], %2;\n"
        "selp.u32 %0, 1, 0, passed;\n"
        "}"
        : "=r"(passed)
        : "r"(SharedAddress(&state_)), "r"(parity)
        : "memory");
    return passed != 0;
  }

  std::uint64_t state_;
};

// Makes initialised barriers known to the copy engine. Then __syncthreads().
__device__ __forceinline__ void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Shows what threads wrote to shared memory, cp.async among it, to products and
// the copy engine: by whoever has seen that it is there.
__device__ __forceinline__ void FenceSharedWrites() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Where a ring of `kStages` buffers stands. Whoever fills waits for the empty
// barrier with `parity ^ 1`, whoever reads for the full barrier with `parity`.
template <int kStages>
struct RingPosition {
  int stage = 0;
  std::uint32_t parity = 0;

  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Copies one box whose first element is (row, column); arrives on `full`.
__device__ __forceinline__ void CopyBox(const CUtensorMap* map, int row,
                                        int column, void* destination,
                                        const Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx"
      "::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(SharedAddress(destination)),
      "l"(map), "r"(full.address()), "r"(column), "r"(row)
      : "memory");
}

__device__ __forceinline__ void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Hardware barriers 1 to 15 (0 is __syncthreads()): `threads` is how many wait
// or arrive in all, a multiple of 32.
__device__ __forceinline__ void WaitNamed(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void ArriveNamed(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// Likewise; whether `value` holds for all of them.
__device__ __forceinline__ bool AgreeNamed(int barrier, int threads,
                                           bool value) {
  int agree;
  asm volatile(
      "{\n"
      ".reg .pred own, all;\n"
      "setp.ne.b32 own, %3, 0;\n"
      "bar.red.and.pred all, %1, %2, own;\n"
      "selp.b32 %0, 1, 0, all;\n"
      "}"
      : "=r"(agree)
      : "r"(barrier), "r"(threads), "r"(static_cast<int>(value))
      : "memory");
  return agree != 0;
}

// Registers of a thread, for all of a warpgroup at once; in one branch for each
// role of a kernel with launch bounds.
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace sparseserve::cuda
