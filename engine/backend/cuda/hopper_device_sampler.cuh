#pragma once

// The kernel of DeviceSampler: a cluster of thread blocks for each row, of
// which each holds a part of the vocabulary in shared memory.
//
// Every sum is one of integers, so the order of atomics does not show. What
// top_k and top_p keep is a prefix of the tokens by rank: all above a key, and
// of those at the key the first few by id. The key is found by histograms, the
// first over (logit - largest) / temperature, which spreads likely tokens
// evenly, later ones over the bits of the logits that are left.

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "engine/backend/cuda/device_sampler.h"
#include "engine/backend/cuda/device_sampler_rows.h"

namespace sparseserve::cuda {

inline constexpr int kSamplerBlocks = 8;  // of a cluster
inline constexpr int kSamplerThreads = 512;
inline constexpr int kSamplerWarps = kSamplerThreads / 32;
inline constexpr int kSamplerBins = 1024;
inline constexpr int kBinsOfBlock = kSamplerBins / kSamplerBlocks;
// Weights are counted in units of 2^-44 of the largest; 2^18 of them stay below
// 2^63. Three limbs of 15 bits, whose sums over a block's tokens fit 32 bits.
inline constexpr float kWeightUnits = 0x1p44f;
inline constexpr int kLimbBits = 15;
inline constexpr int kLimbs = 3;
// Below e to this, a weight is 0 units.
inline constexpr float kLeastExponent = -32.0f;
inline constexpr float kBinsOfUnit = kSamplerBins / -kLeastExponent;

// What a thread block tells the others of its cluster.
struct SamplerNews {
  std::uint64_t best;      // adjusted; RankOf()
  std::uint64_t raw_best;  // as it came
  std::uint64_t kept;      // weight of what may be drawn
  std::uint64_t raw_weight;
  std::uint32_t not_finite;
  std::uint32_t ties;
  std::int32_t cut;  // id of the last tie kept; -1 where another block has it
  std::uint64_t ranked[kMostAlternatives];  // the best as they came
};

// Where a search crosses its target.
struct Crossing {
  std::int32_t bin;  // -1: nowhere
  std::uint32_t count_above, count;
  std::uint64_t weight_above, weight;
};

struct SamplerShared {
  PackedRow params;
  SamplerNews news;
  Crossing crossing;
  std::uint64_t of_warp[kSamplerWarps];
  std::uint64_t of_warp_too[kSamplerWarps];
  std::uint64_t ranked[kSamplerWarps][kMostAlternatives];
  std::uint32_t counts[kSamplerBins];
  std::uint32_t limbs[kLimbs][kSamplerBins];
  // The cluster's sums over the bins that this block adds up.
  std::uint32_t part_counts[kBinsOfBlock];
  std::uint64_t part_weights[kBinsOfBlock];
  // The first histogram, each bin with those above it.
  std::uint32_t first_counts[kSamplerBins];
  std::uint64_t first_weights[kSamplerBins];
};

// Tokens of one thread block.
__host__ __device__ constexpr int SamplerSlice(int vocab_size) {
  const int share = (vocab_size + kSamplerBlocks - 1) / kSamplerBlocks;
  return (share + kSamplerThreads - 1) / kSamplerThreads * kSamplerThreads;
}

constexpr int SamplerSharedBytes(int vocab_size) {
  const int slice = SamplerSlice(vocab_size);
  return static_cast<int>(sizeof(SamplerShared)) + slice * 4 + slice / 8;
}

struct SamplerWork {
  const float* logits;
  std::int64_t stride;
  std::int32_t vocab_size;
  const PackedRow* rows;
  const std::int32_t* listed;
  SampledRow* results;
};

namespace sampler {

// Ascends as floats do; both zeros are one.
__device__ inline std::uint32_t KeyOf(float value) {
  const int bits = __float_as_int(__fadd_rn(value, 0.0f));
  return static_cast<std::uint32_t>(bits ^ ((bits >> 31) | 0x80000000));
}
__device__ inline float OfKey(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}
// More likely is larger, of equals the lower id.
__device__ inline std::uint64_t RankOf(float value, int token) {
  return (std::uint64_t{KeyOf(value)} << 32) |
         (0xffffffffu - static_cast<std::uint32_t>(token));
}
__device__ inline int TokenOf(std::uint64_t rank) {
  return static_cast<int>(0xffffffffu - static_cast<std::uint32_t>(rank));
}
__device__ inline float ValueOf(std::uint64_t rank) {
  return OfKey(static_cast<std::uint32_t>(rank >> 32));
}

// exp for -87 < x <= 0, bit for bit as engine/model/row_math.cc has it: hence
// no fused operations.
__device__ inline float ExpOfNegative(float x) {
  const float n =
      __fsub_rn(__fadd_rn(__fmul_rn(x, 1.44269504f), 12582912.0f), 12582912.0f);
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)),
                            __fmul_rn(n, -2.12194440e-4f));
  float series = 1.0f / 5040;
  series = __fadd_rn(__fmul_rn(series, r), 1.0f / 720);
  series = __fadd_rn(__fmul_rn(series, r), 1.0f / 120);
  series = __fadd_rn(__fmul_rn(series, r), 1.0f / 24);
  series = __fadd_rn(__fmul_rn(series, r), 1.0f / 6);
  series = __fadd_rn(__fmul_rn(series, r), 0.5f);
  series = __fadd_rn(__fmul_rn(series, r), 1.0f);
  series = __fadd_rn(__fmul_rn(series, r), 1.0f);
  return __fmul_rn(series, __int_as_float((static_cast<int>(n) + 127) << 23));
}

// (value - largest) / temperature.
__device__ inline float Exponent(float value, float largest,
                                 float temperature) {
  const float below = __fsub_rn(value, largest);
  return temperature == 1.0f ? below : __fdiv_rn(below, temperature);
}
__device__ inline float WeightAt(float exponent) {
  return exponent > kLeastExponent ? ExpOfNegative(exponent) : 0.0f;
}
__device__ inline std::uint64_t UnitsOf(float weight) {
  return __float2ull_rn(weight * kWeightUnits);
}
// REQUIRES: exponent > kLeastExponent.
__device__ inline int FirstBin(float exponent) {
  return min(static_cast<int>(-exponent * kBinsOfUnit), kSamplerBins - 1);
}

__device__ inline std::uint64_t WarpMax(std::uint64_t value) {
  for (int step = 16; step > 0; step /= 2) {
    value = max(value, static_cast<std::uint64_t>(__shfl_xor_sync(
                           ~0u, static_cast<unsigned long long>(value), step)));
  }
  return value;
}
template <class T>
__device__ inline T WarpSum(T value) {
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_xor_sync(~0u, value, step);
  }
  return value;
}
// With the lanes below.
template <class T>
__device__ inline T WarpScan(T value) {
  const int lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// Philox4x32-10; engine/model/philox.h. The 53 bits of PhiloxUniform().
__device__ inline std::uint64_t UniformBits(std::uint64_t seed,
                                            std::uint64_t index) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index);
  std::uint32_t c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = 0, c3 = 0;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed);
  std::uint32_t k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return ((std::uint64_t{c0} << 32) | c1) >> 11;
}

// Tokens that top_k and top_p keep: all above `key`, and those at it up to id
// `cut`.
struct Prefix {
  std::uint32_t key = 0;
  std::int32_t cut = 0x7fffffff;
};

// Of a search: how many at the key belong to the prefix, and what it weighs.
struct Found {
  std::uint32_t key = 0;
  std::uint32_t ties = 0xffffffffu;  // all
  std::uint64_t weight = 0;
};

struct Target {
  bool by_count = false;
  std::uint32_t count = 0;
  std::uint64_t weight = 0;
  __device__ bool Reached(std::uint32_t c, std::uint64_t w) const {
    return by_count ? c >= count : w >= weight;
  }
};

// One row, seen by one thread of its cluster.
class Row {
 public:
  __device__ Row(const SamplerWork& work, int row, SamplerShared* shared)
      : work_(work),
        params_(shared->params),
        logits_(work.logits + row * work.stride),
        result_(work.results + row),
        shared_(*shared),
        slice_(SamplerSlice(work.vocab_size)),
        values_(reinterpret_cast<float*>(shared + 1)),
        seen_(reinterpret_cast<std::uint32_t*>(values_ + slice_)),
        rank_(
            static_cast<int>(cooperative_groups::this_cluster().block_rank())),
        first_(rank_ * slice_),
        thread_(static_cast<int>(threadIdx.x)) {
    if (thread_ == 0) shared->params = work.rows[row];
    __syncthreads();
  }

  // All threads of the cluster return from the same place.
  __device__ void Sample() {
    if (!params_.wants_token) return Report(SampleStatus::kIdle);
    const bool changed = params_.repetition_penalty != 1.0f ||
                         HasOutputPenalties() || params_.biases.count > 0 ||
                         params_.banned.count > 0;
    Load(changed || params_.temperature != 0.0f);
    if (changed) Adjust();
    PublishBest(changed);
    Sync();
    const SamplerNews news = JoinBest();
    if (news.not_finite) return Report(SampleStatus::kNotFinite);
    if (ValueOf(news.best) == kImpossible) {
      return Report(SampleStatus::kNothingToDraw);
    }
    raw_largest_ = ValueOf(news.raw_best);
    largest_ = ValueOf(news.best);
    if (params_.logprobs >= 0) PublishRaw();
    if (params_.temperature == 0.0f) {
      if (params_.logprobs >= 0) Sync();
      if (rank_ == 0 && thread_ == 0) ReportToken(TokenOf(news.best));
    } else {
      Draw();
    }
    if (params_.logprobs > 0 && rank_ == 0 && Warp() == 0) {
      ReportAlternatives();
    }
  }

 private:
  static constexpr float kImpossible = -__builtin_huge_valf();

  // Worked out where needed, which saves registers.
  __device__ static int Lane() { return threadIdx.x % 32; }
  __device__ static int Warp() { return threadIdx.x / 32; }

  __device__ void Sync() { cooperative_groups::this_cluster().sync(); }
  __device__ const SamplerShared& Of(int rank) {
    return *cooperative_groups::this_cluster().map_shared_rank(&shared_, rank);
  }
  __device__ bool HasOutputPenalties() const {
    return params_.presence_penalty != 0.0f ||
           params_.frequency_penalty != 0.0f;
  }

  __device__ void Report(SampleStatus status) {
    if (rank_ != 0 || thread_ != 0) return;
    result_->status = status;
    result_->token = -1;
    result_->logprob = 0.0f;
    result_->reported = 0;
  }
  __device__ void ReportToken(int token) {
    result_->status = SampleStatus::kOk;
    result_->token = token;
    result_->logprob = params_.logprobs >= 0 ? Logprob(logits_[token]) : 0.0f;
    result_->reported = max(params_.logprobs, 0);
  }
  __device__ float Logprob(float logit) {
    std::uint64_t weight = 0;
    for (int i = 0; i < kSamplerBlocks; ++i) weight += Of(i).news.raw_weight;
    const double sum = static_cast<double>(weight) / kWeightUnits;
    return static_cast<float>((static_cast<double>(logit) - raw_largest_) -
                              log(sum));
  }

  // Of the block; every thread gets it.
  __device__ std::uint64_t BlockMax(std::uint64_t value) {
    value = WarpMax(value);
    if (Lane() == 0) shared_.of_warp[Warp()] = value;
    __syncthreads();
    value = WarpMax(shared_.of_warp[Lane() % kSamplerWarps]);
    __syncthreads();
    return value;
  }
  __device__ std::uint64_t BlockSum(std::uint64_t value) {
    value = WarpSum(static_cast<unsigned long long>(value));
    if (Lane() == 0) shared_.of_warp[Warp()] = value;
    __syncthreads();
    value = Lane() < kSamplerWarps ? shared_.of_warp[Lane()] : 0;
    value = WarpSum(static_cast<unsigned long long>(value));
    __syncthreads();
    return value;
  }

  // The block's logits, behind the vocabulary's end impossible ones.
  __device__ void Load(bool keep) {
    std::uint64_t best = 0;
    float largest = kImpossible;
    int at = first_;
    bool bad = false;
#pragma unroll 4
    for (int i = thread_; i < slice_; i += kSamplerThreads) {
      const int token = first_ + i;
      const bool real = token < work_.vocab_size;
      const float value = real ? logits_[token] : kImpossible;
      bad |= real && (__float_as_uint(value) & 0x7f800000u) == 0x7f800000u;
      // Ids ascend, so the first among equals stays.
      if (value > largest) {
        largest = value;
        at = token;
      }
      if (keep) values_[i] = value;
    }
    best = RankOf(largest, at);
    not_finite_ = __syncthreads_or(bad);
    raw_best_ = BlockMax(best);
  }

  // Steps 1 to 4 of engine/model/sampler.h.
  __device__ void Adjust() {
    const bool repetition = params_.repetition_penalty != 1.0f;
    ClearSeen();
    if (repetition) {
      ForOwn(params_.prompt, [&](int i, int) {
        if (Claim(i)) values_[i] = Repeated(values_[i]);
      });
      if (!HasOutputPenalties()) {
        ForOwn(params_.output, [&](int i, int) {
          if (Claim(i)) values_[i] = Repeated(values_[i]);
        });
      }
    }
    if (HasOutputPenalties()) {
      __syncthreads();
      ApplyOutputPenalties(repetition);
    }
    __syncthreads();
    AddBiases();
    __syncthreads();
    ForOwn(params_.banned, [&](int i, int) {
      atomicExch(reinterpret_cast<int*>(values_ + i),
                 __float_as_int(kImpossible));
    });
    __syncthreads();
  }
  // The slots of tokens of the output count how often it has them; what they
  // held is worked out again.
  __device__ void ApplyOutputPenalties(bool repetition) {
    int* const slots = reinterpret_cast<int*>(values_);
    ClearSeen();
    ForOwn(params_.output, [&](int i, int) { atomicExch(slots + i, 0); });
    __syncthreads();
    ForOwn(params_.output, [&](int i, int) { atomicAdd(slots + i, 1); });
    __syncthreads();
    ForOwn(params_.output, [&](int i, int) {
      if (!Claim(i)) return;
      const float raw = logits_[first_ + i];
      const float penalty = __fadd_rn(
          params_.presence_penalty,
          __fmul_rn(params_.frequency_penalty, static_cast<float>(slots[i])));
      values_[i] = __fsub_rn(repetition ? Repeated(raw) : raw, penalty);
    });
  }
  __device__ float Repeated(float logit) const {
    const float penalty = params_.repetition_penalty;
    const float changed =
        logit > 0.0f ? __fdiv_rn(logit, penalty) : __fmul_rn(logit, penalty);
    constexpr float kMax = 3.402823466e38f;
    return fminf(fmaxf(changed, -kMax), kMax);
  }
  // A thread has all biases of a token, in their order.
  __device__ void AddBiases() {
    const std::int32_t* pairs = work_.listed + params_.biases.begin;
    for (int i = 0; i < params_.biases.count; ++i) {
      const int at = pairs[2 * i] - first_;
      if (at < 0 || at >= slice_ || at % kSamplerThreads != thread_) continue;
      values_[at] = __fadd_rn(values_[at], __int_as_float(pairs[2 * i + 1]));
    }
  }
  // Listed tokens that this block holds.
  template <class Function>
  __device__ void ForOwn(ListedRange range, Function function) {
    const std::int32_t* tokens = work_.listed + range.begin;
    for (int i = thread_; i < range.count; i += kSamplerThreads) {
      const int at = tokens[i] - first_;
      if (at >= 0 && at < slice_) function(at, i);
    }
  }
  __device__ void ClearSeen() {
    for (int i = thread_; i < slice_ / 32; i += kSamplerThreads) seen_[i] = 0;
    __syncthreads();
  }
  // Whether the caller is the first since ClearSeen().
  __device__ bool Claim(int i) {
    const std::uint32_t bit = 1u << (i % 32);
    return (atomicOr(seen_ + i / 32, bit) & bit) == 0;
  }

  __device__ void PublishBest(bool changed) {
    std::uint64_t best = raw_best_;
    if (changed) {
      best = 0;
      for (int i = thread_; i < slice_; i += kSamplerThreads) {
        best = max(best, RankOf(values_[i], first_ + i));
      }
      best = BlockMax(best);
    }
    if (thread_ != 0) return;
    shared_.news.best = best;
    shared_.news.raw_best = raw_best_;
    shared_.news.not_finite = not_finite_;
  }
  __device__ SamplerNews JoinBest() {
    const SamplerNews& other = Of(Lane() % kSamplerBlocks).news;
    SamplerNews joined;
    joined.best = WarpMax(other.best);
    joined.raw_best = WarpMax(other.raw_best);
    joined.not_finite = __any_sync(~0u, other.not_finite != 0);
    return joined;
  }

  // The row as it came: its weight at temperature 1 and its best tokens.
  __device__ void PublishRaw() {
    std::uint64_t weight = 0;
    const int end = min(slice_, work_.vocab_size - first_);
    for (int i = thread_; i < end; i += kSamplerThreads) {
      weight +=
          UnitsOf(WeightAt(Exponent(logits_[first_ + i], raw_largest_, 1.0f)));
    }
    weight = BlockSum(weight);
    if (thread_ == 0) shared_.news.raw_weight = weight;
    if (params_.logprobs <= 0) return;
    RankSegment(end);
    __syncthreads();
    if (Warp() == 0) {
      const std::uint64_t* head = shared_.ranked[Lane() % kSamplerWarps];
      Merge(Lane() < kSamplerWarps ? head : nullptr, shared_.news.ranked);
    }
  }
  // The best of the warp's tokens, in order; 0 behind the last.
  __device__ void RankSegment(int end) {
    const int begin = Warp() * (slice_ / kSamplerWarps);
    const int stop = min(begin + slice_ / kSamplerWarps, end);
    std::uint64_t last = ~std::uint64_t{0};
    std::uint64_t mine = BestBelow(begin, stop, last);
    for (int i = 0; i < params_.logprobs; ++i) {
      const std::uint64_t best = WarpMax(mine);
      if (Lane() == 0) shared_.ranked[Warp()][i] = best;
      if (best != 0 && best == mine) mine = BestBelow(begin, stop, best);
    }
  }
  // Of this lane's tokens.
  __device__ std::uint64_t BestBelow(int begin, int end, std::uint64_t bound) {
    std::uint64_t best = 0;
#pragma unroll 4
    for (int i = begin + Lane(); i < end; i += 32) {
      const std::uint64_t rank = RankOf(logits_[first_ + i], first_ + i);
      if (rank < bound && rank > best) best = rank;
    }
    return best;
  }
  // Of up to 32 lists, a lane's each (null: none), the best in order. By one
  // warp.
  __device__ void Merge(const std::uint64_t* list, std::uint64_t* merged) {
    int taken = 0;
    for (int i = 0; i < params_.logprobs; ++i) {
      const std::uint64_t mine =
          list != nullptr && taken < params_.logprobs ? list[taken] : 0;
      const std::uint64_t best = WarpMax(mine);
      if (best != 0 && best == mine) ++taken;
      if (Lane() == 0) merged[i] = best;
    }
    __syncwarp();
  }
  __device__ void ReportAlternatives() {
    const std::uint64_t* list =
        Lane() < kSamplerBlocks ? Of(Lane()).news.ranked : nullptr;
    Merge(list, shared_.ranked[0]);
    if (Lane() >= params_.logprobs) return;
    const std::uint64_t rank = shared_.ranked[0][Lane()];
    result_->alternatives[Lane()] = {TokenOf(rank), Logprob(ValueOf(rank))};
  }

  // Steps 6 to 8.
  __device__ void Draw() {
    const bool limited = params_.top_k > 0 && params_.top_k < work_.vocab_size;
    Prefix prefix;
    if (limited || params_.top_p < 1.0f) prefix = Keep(limited);
    const std::uint64_t own = SumKept(prefix);
    if (thread_ == 0) shared_.news.kept = own;
    Sync();
    std::uint64_t before = 0, total = 0;
    for (int i = 0; i < kSamplerBlocks; ++i) {
      if (i == rank_) before = total;
      total += Of(i).news.kept;
    }
    // floor(uniform * total), exactly.
    const std::uint64_t bits = UniformBits(params_.seed, params_.draw_index);
    const std::uint64_t target =
        (__umul64hi(bits, total) << 11) | ((bits * total) >> 53);
    if (target >= before && target - before < own) {
      Walk(prefix, target - before);
    }
  }

  __device__ std::uint64_t KeptUnits(const Prefix& prefix, int i) const {
    const float value = values_[i];
    const std::uint32_t key = KeyOf(value);
    if (key < prefix.key || (key == prefix.key && first_ + i > prefix.cut)) {
      return 0;
    }
    const float weight =
        WeightAt(Exponent(value, largest_, params_.temperature));
    return weight < params_.min_p ? 0 : UnitsOf(weight);
  }
  // Sum of the block's; the warps' are left in of_warp_too.
  __device__ std::uint64_t SumKept(const Prefix& prefix) {
    const int segment = slice_ / kSamplerWarps;
    std::uint64_t sum = 0;
    for (int i = Lane(); i < segment; i += 32) {
      sum += KeptUnits(prefix, Warp() * segment + i);
    }
    sum = WarpSum(static_cast<unsigned long long>(sum));
    if (Lane() == 0) shared_.of_warp_too[Warp()] = sum;
    return BlockSum(Lane() == 0 ? sum : 0);
  }
  // Reports the first token with which the sum passes `target`.
  __device__ void Walk(const Prefix& prefix, std::uint64_t target) {
    std::uint64_t passed = 0;
    int warp = 0;
    while (passed + shared_.of_warp_too[warp] <= target) {
      passed += shared_.of_warp_too[warp++];
    }
    if (warp != Warp()) return;
    const int segment = slice_ / kSamplerWarps;
    for (int i = warp * segment + Lane();; i += 32) {
      const std::uint64_t with =
          WarpScan(static_cast<unsigned long long>(KeptUnits(prefix, i)));
      const unsigned past = __ballot_sync(~0u, passed + with > target);
      if (past != 0) {
        if (Lane() == __ffs(past) - 1) ReportToken(first_ + i);
        return;
      }
      passed += __shfl_sync(~0u, static_cast<unsigned long long>(with), 31);
    }
  }

  // Step 7 but for min_p.
  __device__ Prefix Keep(bool limited) {
    CountFirst();
    std::uint64_t total = shared_.first_weights[kSamplerBins - 1];
    Found found;
    // One place for both searches, which saves registers.
#pragma unroll 1
    for (int search = limited ? 0 : 1; search < 2; ++search) {
      Target target;
      target.by_count = search == 0;
      if (target.by_count) {
        target.count = static_cast<std::uint32_t>(params_.top_k);
      } else if (params_.top_p < 1.0f) {
        const double wanted = ceil(static_cast<double>(params_.top_p) *
                                   static_cast<double>(total));
        target.weight = min(
            max(static_cast<std::uint64_t>(wanted), std::uint64_t{1}), total);
      } else {
        break;
      }
      found = Search(target);
      if (found.key != 0) total = found.weight;
    }
    Prefix prefix;
    prefix.key = found.key;
    if (found.ties != 0xffffffffu) prefix.cut = FindCut(found);
    return prefix;
  }

  // Adds up the cluster's histogram of what `bin_of` gives: a bin for token i
  // of the block, or -1.
  template <class BinOf>
  __device__ void Count(BinOf bin_of) {
    for (int i = thread_; i < kSamplerBins; i += kSamplerThreads) {
      shared_.counts[i] = 0;
      for (int limb = 0; limb < kLimbs; ++limb) shared_.limbs[limb][i] = 0;
    }
    __syncthreads();
    // Unrolled, it would need more registers than two thread blocks leave.
#pragma unroll 1
    for (int i = thread_; i < slice_; i += kSamplerThreads) {
      std::uint64_t units = 0;
      const int bin = bin_of(i, &units);
      if (bin < 0) continue;
      atomicAdd(shared_.counts + bin, 1u);
      for (int limb = 0; limb < kLimbs; ++limb) {
        const std::uint32_t part = static_cast<std::uint32_t>(
            (units >> (limb * kLimbBits)) & ((1u << kLimbBits) - 1));
        if (part != 0) atomicAdd(shared_.limbs[limb] + bin, part);
      }
    }
    Sync();
    if (thread_ < kBinsOfBlock) {
      const int bin = rank_ * kBinsOfBlock + thread_;
      std::uint32_t count = 0;
      std::uint64_t weight = 0;
#pragma unroll 2
      for (int i = 0; i < kSamplerBlocks; ++i) {
        const SamplerShared& other = Of(i);
        count += other.counts[bin];
        for (int limb = 0; limb < kLimbs; ++limb) {
          weight += std::uint64_t{other.limbs[limb][bin]} << (limb * kLimbBits);
        }
      }
      shared_.part_counts[thread_] = count;
      shared_.part_weights[thread_] = weight;
    }
    Sync();
  }

  // Bins 2 * thread and 2 * thread + 1, each with those above it.
  struct Bins {
    std::uint32_t counts[2];
    std::uint64_t weights[2];
  };
  __device__ Bins ScanBins() {
    Bins bins;
    const SamplerShared& other = Of(2 * thread_ / kBinsOfBlock);
    const int at = 2 * thread_ % kBinsOfBlock;
    const std::uint32_t count[2] = {other.part_counts[at],
                                    other.part_counts[at + 1]};
    const std::uint64_t weight[2] = {other.part_weights[at],
                                     other.part_weights[at + 1]};
    bins.counts[1] = WarpScan(count[0] + count[1]);
    bins.weights[1] =
        WarpScan(static_cast<unsigned long long>(weight[0] + weight[1]));
    if (Lane() == 31) {
      shared_.of_warp[Warp()] = bins.counts[1];
      shared_.of_warp_too[Warp()] = bins.weights[1];
    }
    if (thread_ == 0) shared_.crossing.bin = -1;
    __syncthreads();
    for (int i = 0; i < Warp(); ++i) {
      bins.counts[1] += static_cast<std::uint32_t>(shared_.of_warp[i]);
      bins.weights[1] += shared_.of_warp_too[i];
    }
    bins.counts[0] = bins.counts[1] - count[1];
    bins.weights[0] = bins.weights[1] - weight[1];
    __syncthreads();
    return bins;
  }
  __device__ void CountFirst() {
    Count([&](int i, std::uint64_t* units) {
      const float exponent =
          Exponent(values_[i], largest_, params_.temperature);
      if (!(exponent > kLeastExponent)) return -1;
      *units = UnitsOf(ExpOfNegative(exponent));
      return *units == 0 ? -1 : FirstBin(exponent);
    });
    const Bins bins = ScanBins();
    for (int i = 0; i < 2; ++i) {
      shared_.first_counts[2 * thread_ + i] = bins.counts[i];
      shared_.first_weights[2 * thread_ + i] = bins.weights[i];
    }
    __syncthreads();
  }

  // Where the bins, behind what is above them all, reach the target.
  __device__ Crossing Cross(const Bins& bins, const Target& target,
                            std::uint32_t count_above,
                            std::uint64_t weight_above,
                            std::uint32_t count_before,
                            std::uint64_t weight_before) {
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t count = i == 0 ? count_before : bins.counts[0];
      const std::uint64_t weight = i == 0 ? weight_before : bins.weights[0];
      if (target.Reached(count_above + bins.counts[i],
                         weight_above + bins.weights[i]) &&
          !target.Reached(count_above + count, weight_above + weight)) {
        shared_.crossing = {2 * thread_ + i, count_above + count,
                            bins.counts[i] - count, weight_above + weight,
                            bins.weights[i] - weight};
      }
    }
    __syncthreads();
    const Crossing crossing = shared_.crossing;
    __syncthreads();
    return crossing;
  }

  // The shortest prefix that reaches the target; key 0 if none does.
  // REQUIRES: CountFirst().
  __device__ Found Search(const Target& target) {
    if (thread_ == 0) shared_.crossing.bin = -1;
    __syncthreads();
    Bins bins;
    for (int i = 0; i < 2; ++i) {
      bins.counts[i] = shared_.first_counts[2 * thread_ + i];
      bins.weights[i] = shared_.first_weights[2 * thread_ + i];
    }
    const int before = 2 * thread_ - 1;
    Crossing crossing =
        Cross(bins, target, 0, 0, before < 0 ? 0 : shared_.first_counts[before],
              before < 0 ? 0 : shared_.first_weights[before]);
    if (crossing.bin < 0) return Found();
    // Keys of the bin: those that are in it or in one above, less the latter.
    std::uint32_t low = LeastKey(crossing.bin);
    std::uint32_t high =
        crossing.bin == 0 ? KeyOf(largest_) : LeastKey(crossing.bin - 1) - 1;
    while (low < high && !TakesAll(crossing, target)) {
      const int shift = max(0, 32 - __clz(high - low) - 10);
      Count([&](int i, std::uint64_t* units) {
        const float value = values_[i];
        const std::uint32_t key = KeyOf(value);
        if (key < low || key > high) return -1;
        *units =
            UnitsOf(WeightAt(Exponent(value, largest_, params_.temperature)));
        return *units == 0 ? -1 : static_cast<int>((high - key) >> shift);
      });
      bins = ScanBins();
      const Crossing above = crossing;
      const std::uint32_t counts = __shfl_up_sync(~0u, bins.counts[1], 1);
      const std::uint64_t weights = __shfl_up_sync(
          ~0u, static_cast<unsigned long long>(bins.weights[1]), 1);
      if (Lane() == 31) {
        shared_.of_warp[Warp()] = bins.counts[1];
        shared_.of_warp_too[Warp()] = bins.weights[1];
      }
      __syncthreads();
      const bool begins = Lane() == 0;
      const int left = Warp() - 1;
      crossing =
          Cross(bins, target, above.count_above, above.weight_above,
                !begins    ? counts
                : left < 0 ? 0
                           : static_cast<std::uint32_t>(shared_.of_warp[left]),
                !begins    ? weights
                : left < 0 ? 0
                           : shared_.of_warp_too[left]);
      const std::uint32_t bin = static_cast<std::uint32_t>(crossing.bin);
      const std::uint32_t width = (1u << shift) - 1;
      high -= bin << shift;
      low = high - low < width ? low : high - width;
    }
    Found found;
    found.key = low;
    found.weight = crossing.weight_above + crossing.weight;
    if (low == high && !TakesAll(crossing, target)) {
      const std::uint64_t each = crossing.weight / crossing.count;
      const std::uint64_t ties =
          target.by_count
              ? target.count - crossing.count_above
              : (target.weight - crossing.weight_above + each - 1) / each;
      if (ties < crossing.count) found.ties = static_cast<std::uint32_t>(ties);
      found.weight = crossing.weight_above + ties * each;
    }
    return found;
  }
  // Whether all of the crossing's bin belongs to the prefix.
  __device__ bool TakesAll(const Crossing& crossing, const Target& target) {
    return crossing.count == 1 ||
           (target.by_count &&
            crossing.count_above + crossing.count == target.count);
  }
  // The least key whose logit is in the first histogram's bin or above. Each
  // warp looks by itself, at 32 keys a time.
  __device__ std::uint32_t LeastKey(int bin) const {
    std::uint32_t low = KeyOf(-3.402823466e38f), high = KeyOf(largest_);
    while (low < high) {
      const std::uint32_t stride = (high - low) / 32 + 1;
      const std::uint64_t key =
          min(std::uint64_t{low} + std::uint64_t{stride} * Lane(),
              std::uint64_t{high});
      const float exponent = Exponent(OfKey(static_cast<std::uint32_t>(key)),
                                      largest_, params_.temperature);
      const bool in = exponent > kLeastExponent && FirstBin(exponent) <= bin;
      const unsigned lanes = __ballot_sync(~0u, in);
      const int lane = lanes == 0 ? 32 : __ffs(lanes) - 1;
      const std::uint64_t reached =
          std::uint64_t{low} + std::uint64_t{stride} * lane;
      const std::uint32_t next_low =
          lane == 0
              ? low
              : static_cast<std::uint32_t>(min(
                    std::uint64_t{low} + std::uint64_t{stride} * (lane - 1) + 1,
                    std::uint64_t{high}));
      if (reached < high) high = static_cast<std::uint32_t>(reached);
      low = next_low;
    }
    return low;
  }

  // The id of the found.ties-th token at the key.
  __device__ std::int32_t FindCut(const Found& found) {
    const int segment = slice_ / kSamplerWarps;
    std::uint32_t ties = 0;
    for (int i = Lane(); i < segment; i += 32) {
      ties += KeyOf(values_[Warp() * segment + i]) == found.key;
    }
    ties = WarpSum(ties);
    if (Lane() == 0) shared_.of_warp_too[Warp()] = ties;
    const std::uint64_t own = BlockSum(Lane() == 0 ? ties : 0);
    if (thread_ == 0) {
      shared_.news.ties = static_cast<std::uint32_t>(own);
      shared_.news.cut = -1;
    }
    Sync();
    std::uint32_t wanted = found.ties;
    bool here = true;
    for (int i = 0; i < rank_ && here; ++i) {
      const std::uint32_t others = Of(i).news.ties;
      here = wanted > others;
      if (here) wanted -= others;
    }
    if (here && wanted <= own) FindCutHere(found.key, wanted);
    Sync();
    const std::int32_t cut = Of(Lane() % kSamplerBlocks).news.cut;
    return __reduce_max_sync(~0u, cut);
  }
  __device__ void FindCutHere(std::uint32_t key, std::uint32_t wanted) {
    int warp = 0;
    while (shared_.of_warp_too[warp] < wanted) {
      wanted -= static_cast<std::uint32_t>(shared_.of_warp_too[warp++]);
    }
    if (warp != Warp()) return;
    const int segment = slice_ / kSamplerWarps;
    for (int i = warp * segment + Lane();; i += 32) {
      const bool tie = KeyOf(values_[i]) == key;
      const unsigned lanes = __ballot_sync(~0u, tie);
      const std::uint32_t count = __popc(lanes);
      const std::uint32_t below = __popc(lanes & ((2u << Lane()) - 1));
      if (wanted <= count) {
        if (tie && below == wanted) shared_.news.cut = first_ + i;
        return;
      }
      wanted -= count;
    }
  }

  const SamplerWork& work_;
  const PackedRow& params_;
  const float* const logits_;
  SampledRow* const result_;
  SamplerShared& shared_;
  const int slice_;
  float* const values_;        // [slice_], after step 4
  std::uint32_t* const seen_;  // [slice_ / 32], a bit for each token
  const int rank_;             // of the block in its cluster
  const int first_;            // token of the block
  const int thread_;
  std::uint64_t raw_best_ = 0;
  int not_finite_ = 0;
  float raw_largest_ = 0, largest_ = 0;
};

}  // namespace sampler

__global__ void __cluster_dims__(kSamplerBlocks, 1, 1)
    __launch_bounds__(kSamplerThreads, 2)
        DeviceSamplerKernel(const __grid_constant__ SamplerWork work) {
  extern __shared__ __align__(16) unsigned char bytes[];
  sampler::Row row(work, static_cast<int>(blockIdx.y),
                   reinterpret_cast<SamplerShared*>(bytes));
  row.Sample();
  // Others may still read what this block published.
  cooperative_groups::this_cluster().sync();
}

}  // namespace sparseserve::cuda
