#pragma once

// From scores of a sequence's pages to its list, by one thread block: forced
// pages and the best others, ties to the lower index. A histogram of scores
// leaves few that may be the least chosen one, which are compared; where it
// leaves many, histograms of ever narrower ranges of their bits find it. Counts
// are integers, so no order of adding shows.

#include <cstdint>

namespace sparseserve::cuda {

// Bits of a finite float so that keys ascend as scores do, -0 as 0.
__device__ __forceinline__ std::uint32_t AscendingKey(float score) {
  const std::uint32_t bits = __float_as_uint(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The score of a key.
__device__ __forceinline__ float ScoreOf(std::uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// Pages that a rule takes whatever their scores: the first and the last.
struct ForcedPages {
  int first = 0;
  int end = 0;  // of what is free; at least `first`

  __device__ __forceinline__ bool Has(int page) const {
    return page < first || page >= end;
  }
};

// Keys from `sure` on are chosen, and the first `equals` of those just below.
struct LeastKey {
  std::uint32_t sure = 0;
  unsigned equals = 0;
};

// Short code, not fast code: each instruction of it runs once or twice, and has
// to be fetched first. Thread t has pages from t * `each` on, which lie in
// shared memory so that neighbours' are in different banks.
template <int kThreads>
class PageChoice {
 public:
  static constexpr int kBinBits = 11, kBins = 1 << kBinBits;
  struct Scratch {
    alignas(16) unsigned bins[kBins];
    unsigned warp_sums[kThreads / 32];
    std::uint32_t warp_least[kThreads / 32], warp_greatest[kThreads / 32];
    struct {
      unsigned bin, above, inside;
    } found;
    unsigned candidates;
    std::uint32_t candidate_keys[32];
  };

  __host__ __device__ static constexpr int KeyBytes(int pages) {
    return (pages + pages / 32 + 1) * 4;
  }

  __device__ __forceinline__ PageChoice(std::uint32_t* keys, int pages,
                                        const ForcedPages& forced,
                                        Scratch& scratch)
      : keys_(keys), pages_(pages), forced_(forced), scratch_(scratch) {
    const int each = (pages + kThreads - 1) / kThreads;
    first_ = min(static_cast<int>(threadIdx.x) * each, pages);
    end_ = min(first_ + each, pages);
  }

  // Writes the list, ascending: the forced pages and `need` others, 0 or more
  // and not more than there are. Returns its length, or -1 without having
  // written one if a score is no number; score_of(page) is asked once for each
  // page, the newest left out, which is forced. All threads call together.
  template <class ScoreOf>
  __device__ __forceinline__ int Choose(int need, const ScoreOf& score_of,
                                        std::int32_t* list) {
    if (!Load(score_of)) return -1;
    LeastKey least = {0xffffffffu, 0};  // no finite score's
    if (need > 0) least = Find(need);
    return Write(least, list);
  }

 private:
  __device__ __forceinline__ static int At(int page) {
    return page + page / 32;
  }

  // Keys into shared memory, their range into scratch; bins are empty then.
  template <class ScoreOf>
  __device__ __forceinline__ bool Load(const ScoreOf& score_of) {
    constexpr int kAtOnce = 4;
    std::uint32_t least = 0xffffffffu, greatest = 0;
    bool finite = true;
    // Several loads under way at a time.
#pragma unroll 1
    for (int next = threadIdx.x; next < pages_; next += kAtOnce * kThreads) {
      float scores[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int page = next + i * kThreads;
        scores[i] = page < pages_ - 1 ? score_of(page) : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int page = next + i * kThreads;
        if (page >= pages_) break;
        const std::uint32_t key = AscendingKey(scores[i]);
        finite = finite && isfinite(scores[i]);
        keys_[At(page)] = key;
        if (forced_.Has(page)) continue;
        least = min(least, key);
        greatest = max(greatest, key);
      }
    }
#pragma unroll
    for (int i = 0; i < kBins / kThreads; ++i) {
      scratch_.bins[i * kThreads + threadIdx.x] = 0;
    }
    if (threadIdx.x == 0) scratch_.candidates = 0;
    least = __reduce_min_sync(kAll, least);
    greatest = __reduce_max_sync(kAll, greatest);
    if (threadIdx.x % 32 == 0) {
      scratch_.warp_least[threadIdx.x / 32] = least;
      scratch_.warp_greatest[threadIdx.x / 32] = greatest;
    }
    return __syncthreads_or(!finite) == 0;
  }

  __device__ __forceinline__ LeastKey Find(unsigned need) {
    std::uint32_t least = 0xffffffffu, greatest = 0;
#pragma unroll
    for (int i = 0; i < kThreads / 32; ++i) {
      least = min(least, scratch_.warp_least[i]);
      greatest = max(greatest, scratch_.warp_greatest[i]);
    }
    // Bins of equal width. Rounding keeps the order of scores.
    const float lowest = ScoreOf(least);
    const float width = ScoreOf(greatest) - lowest;
    const float scale = width > 0.0f ? __fdividef(kBins, width) : 0.0f;
    const auto bin_of = [&](std::uint32_t key) {
      return min(static_cast<unsigned>((ScoreOf(key) - lowest) * scale),
                 kBins - 1u);
    };
#pragma unroll 1
    for (int page = first_; page < end_; ++page) {
      if (!forced_.Has(page)) {
        atomicAdd(&scratch_.bins[bin_of(keys_[At(page)])], 1u);
      }
    }
    __syncthreads();
    FindBin(need);
    if (scratch_.found.inside > 32) return Narrow(need, least, greatest);
    const unsigned bin = scratch_.found.bin;
#pragma unroll 1
    for (int page = first_; page < end_; ++page) {
      const std::uint32_t key = keys_[At(page)];
      if (!forced_.Has(page) && bin_of(key) == bin) {
        scratch_.candidate_keys[atomicAdd(&scratch_.candidates, 1u)] = key;
      }
    }
    __syncthreads();
    return Compare(need - scratch_.found.above, scratch_.found.inside);
  }

  // The least of the `need` greatest of up to 32 candidates: each warp by
  // itself. Their order does not matter.
  __device__ __forceinline__ LeastKey Compare(unsigned need,
                                              unsigned candidates) const {
    const unsigned lane = threadIdx.x % 32;
    const std::uint32_t key =
        lane < candidates ? scratch_.candidate_keys[lane] : 0;
    unsigned above = 0, equal = 0;
    for (unsigned i = 0; i < candidates; ++i) {
      const std::uint32_t other = __shfl_sync(kAll, key, i);
      above += other > key ? 1 : 0;
      equal += other == key ? 1 : 0;
    }
    const unsigned found = __ballot_sync(
        kAll, lane < candidates && above < need && need <= above + equal);
    const int at = __ffs(found) - 1;
    return {__shfl_sync(kAll, key, at) + 1,
            need - __shfl_sync(kAll, above, at)};
  }

  // Likewise from keys between the least and the greatest; bins are empty.
  __device__ __forceinline__ LeastKey Narrow(unsigned need, std::uint32_t least,
                                             std::uint32_t greatest) {
    while (true) {
      // The range's keys by their upper bits.
      const int shift = max(32 - kBinBits - __clz(greatest - least), 0);
#pragma unroll 1
      for (int page = first_; page < end_; ++page) {
        const std::uint32_t key = keys_[At(page)];
        if (!forced_.Has(page) && key >= least && key <= greatest) {
          atomicAdd(&scratch_.bins[(key - least) >> shift], 1u);
        }
      }
      __syncthreads();
      FindBin(need);
      const unsigned inside = scratch_.found.inside;
      need -= scratch_.found.above;
      least += scratch_.found.bin << shift;
      greatest = min(greatest, least + ((1u << shift) - 1));
      if (inside == need) return {least, 0};
      if (shift == 0) return {least + 1, need};
    }
  }

  // The bin from which on upwards `need` keys are counted, and empty bins.
  __device__ __forceinline__ void FindBin(unsigned need) {
    constexpr int kEach = kBins / kThreads;
    static_assert(kEach % 4 == 0);
    // Of the first thread, the last bins.
    const int first = kBins - kEach * (threadIdx.x + 1);
    unsigned counts[kEach], sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; i += 4) {
      auto* const four = reinterpret_cast<uint4*>(&scratch_.bins[first + i]);
      const uint4 read = *four;
      *four = make_uint4(0, 0, 0, 0);
      counts[i] = read.x, counts[i + 1] = read.y;
      counts[i + 2] = read.z, counts[i + 3] = read.w;
      sum += read.x + read.y + read.z + read.w;
    }
    unsigned above = SumBefore(sum);
    if (above < need && need <= above + sum) {
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i) {
        if (above < need && need <= above + counts[i]) {
          scratch_.found = {static_cast<unsigned>(first + i), above, counts[i]};
        }
        above += counts[i];
      }
    }
    __syncthreads();
  }

  // The sum of what lower threads have. `total`: of all, if wanted.
  __device__ __forceinline__ unsigned SumBefore(unsigned value,
                                                unsigned* total = nullptr) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned until = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const unsigned lower = __shfl_up_sync(kAll, until, step);
      if (lane >= step) until += lower;
    }
    if (lane == 31) scratch_.warp_sums[warp] = until;
    __syncthreads();
    unsigned before = until - value, all = 0;
#pragma unroll
    for (int i = 0; i < kThreads / 32; ++i) {
      const unsigned sum = scratch_.warp_sums[i];
      if (i < warp) before += sum;
      all += sum;
    }
    if (total != nullptr) *total = all;
    return before;
  }

  __device__ __forceinline__ int Write(const LeastKey& least,
                                       std::int32_t* list) {
    const auto is_sure = [&](int page, std::uint32_t key) {
      return forced_.Has(page) || key >= least.sure;
    };
    const auto is_equal = [&](std::uint32_t key) {
      return least.equals > 0 && key == least.sure - 1;
    };
    // Sure ones in the upper half, equal ones in the lower.
    unsigned own = 0, total;
#pragma unroll 1
    for (int page = first_; page < end_; ++page) {
      const std::uint32_t key = keys_[At(page)];
      own += is_sure(page, key) ? 1u << 16 : is_equal(key) ? 1u : 0u;
    }
    const unsigned before = SumBefore(own, &total);
    unsigned sure = before >> 16, equals = before & 0xffffu;
#pragma unroll 1
    for (int page = first_; page < end_; ++page) {
      const std::uint32_t key = keys_[At(page)];
      const bool sure_one = is_sure(page, key);
      const bool equal_one = !sure_one && is_equal(key);
      if (sure_one || (equal_one && equals < least.equals)) {
        list[sure + min(equals, least.equals)] = page;
      }
      sure += sure_one ? 1 : 0;
      equals += equal_one ? 1 : 0;
    }
    return static_cast<int>((total >> 16) + min(total & 0xffffu, least.equals));
  }

  static constexpr unsigned kAll = 0xffffffffu;
  std::uint32_t* keys_;
  int pages_, first_, end_;
  ForcedPages forced_;
  Scratch& scratch_;
};

}  // namespace sparseserve::cuda
