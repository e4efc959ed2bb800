#include "engine/backend/cpu/integer_kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "engine/base/check.h"
#include "hwy/cache_control.h"

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/integer_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/simd_dispatch.h"
// clang-format on

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "engine/backend/cpu/integer_formats-inl.h"
#include "engine/backend/cpu/integer_super_blocks-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Without vectors, floats are no slower.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

const IntegerKernels* TargetIntegerKernels(bool) { return nullptr; }

#else

// sum + w[0] * x[0] + w[1] * x[1] in each lane, by multiplication and addition
// of pairs.
struct PairsByMadd {
  static HWY_INLINE VI Add(VI sum, VW w, const int16_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof(pair));
    VI unused = hn::Zero(DI());
    return hn::ReorderWidenMulAccumulate(
        DI(), w, hn::BitCast(DW(), hn::Set(DI(), pair)), sum, unused);
  }
};

#if HWY_TARGET == HWY_AVX3
// The same by one instruction of AVX512-VNNI. As text, since no target of this
// Highway names the extension, and a function cannot be inlined into another
// with fewer instructions than its own.
struct PairsByVnni {
  static HWY_INLINE VI Add(VI sum, VW w, const int16_t* x) {
    asm("vpdpwssd %2%{1to16%}, %1, %0"
        : "+v"(sum.raw)
        : "v"(w.raw), "m"(*reinterpret_cast<const int16_t(*)[2]>(x)));
    return sum;
  }
};
#endif

// Input rows that one pass over a strip's weights serves.
constexpr int kInputTile = 16;

// Adds the products of a group with 32 columns of one row.
template <class Format, class Pairs>
HWY_INLINE VF AddGroup(const typename Format::Group& group,
                       const RoundedRows& input, int64_t block, VF sum) {
  constexpr int kScales = Format::kScales;
  const int16_t* x = input.values + block * kRoundedColumns;
  // Two chains of sums for each scale or for all: exact, in whatever order.
  VI sums[2] = {hn::Zero(DI()), hn::Zero(DI())};
  HWY_UNROLL(16)
  for (int i = 0; i < 16; ++i) {
    VI& chain = sums[kScales == 2 ? i / 8 : i % 2];
    chain = Pairs::Add(chain, group.words[i], x + 2 * i);
  }
  const VF input_scale = hn::Set(DF(), input.scales[block]);
  if constexpr (kScales == 1) sums[0] = hn::Add(sums[0], sums[1]);
  for (int s = 0; s < kScales; ++s) {
    sum = hn::MulAdd(hn::ConvertTo(DF(), sums[s]),
                     hn::Mul(group.scale[s], input_scale), sum);
  }
  if constexpr (Format::kHasOffset) {
    sum = hn::MulAdd(group.offset, hn::Set(DF(), input.sums[block]), sum);
  }
  return sum;
}

// Bytes fetched ahead of the stream of weights: hardware stops at the border of
// every page.
constexpr int64_t kFetchBytes = 4096;

// kLanes weight rows by `count` input rows; only 1 if kOne.
template <class Format, class Pairs, bool kOne>
HWY_INLINE void MultiplyTile(PackedLanes lanes, const RoundedRows& input,
                             int count, VF* sums) {
  constexpr int kGroups = Format::kColumns / kRoundedColumns;
  const int64_t blocks = input.columns / kRoundedColumns;
  for (int64_t block = 0; block < blocks; block += kGroups) {
    const auto* fetch = reinterpret_cast<const std::byte*>(lanes.next());
    for (int64_t i = 0; i < kLanes * Format::kLoadedBytes; i += 64) {
      hwy::Prefetch(fetch + kFetchBytes + i);
    }
    typename Format::Opened opened;
    Format::Open(lanes, opened);
    for (int g = 0; g < kGroups; ++g) {
      typename Format::Group group;
      Format::Load(lanes, opened, g, group);
      if constexpr (kOne) {
        sums[0] = AddGroup<Format, Pairs>(group, input, block + g, sums[0]);
      } else {
        for (int m = 0; m < count; ++m) {
          sums[m] =
              AddGroup<Format, Pairs>(group, input.From(m), block + g, sums[m]);
        }
      }
    }
  }
}

void StoreSums(const float* sums, int rows, bool accumulate, float* output) {
  for (int n = 0; n < rows; ++n) {
    output[n] = accumulate ? output[n] + sums[n] : sums[n];
  }
}

template <class Format>
int64_t PackedBytesOf(int64_t columns) {
  return columns / Format::kColumns * Format::kLoadedBytes * kLanes;
}

template <class Format, class Pairs>
void MultiplyRows(const IntegerStrip& strip) {
  const std::byte* weights = strip.weights;
  const int64_t packed_bytes = PackedBytesOf<Format>(strip.input.columns);
  for (int64_t first = 0; first < strip.rows; first += kLanes) {
    const int rows =
        static_cast<int>(std::min<int64_t>(kLanes, strip.rows - first));
    const PackedLanes lanes(weights);
    for (int64_t m = 0; m < strip.input_rows; m += kInputTile) {
      const int count =
          static_cast<int>(std::min<int64_t>(kInputTile, strip.input_rows - m));
      VF sums[kInputTile];
      for (int i = 0; i < count; ++i) sums[i] = hn::Zero(DF());
      if (count == 1) {
        MultiplyTile<Format, Pairs, true>(lanes, strip.input.From(m), 1, sums);
      } else {
        MultiplyTile<Format, Pairs, false>(lanes, strip.input.From(m), count,
                                           sums);
      }
      for (int i = 0; i < count; ++i) {
        alignas(64) float values[kLanes];
        hn::Store(sums[i], DF(), values);
        StoreSums(values, rows, strip.accumulate,
                  strip.output + (m + i) * strip.output_stride + first);
      }
    }
    weights += packed_bytes;
  }
}

template <class Format>
void PackRows(const StoredMatrix& matrix, std::byte* packed) {
  constexpr int kGroups = Format::kColumns / kRoundedColumns;
  const int64_t blocks = matrix.columns / Format::kColumns;
  const int64_t row_bytes = blocks * Format::kBlockBytes;
  for (int64_t first = 0; first < matrix.rows; first += kLanes) {
    const std::byte* row[kLanes];
    for (int r = 0; r < kLanes; ++r) {
      // Lanes without a row repeat the last one.
      row[r] = matrix.data + std::min(first + r, matrix.rows - 1) * row_bytes;
    }
    PackingLanes lanes(StoredLanes(row), packed);
    for (int64_t block = 0; block < blocks; ++block) {
      typename Format::Opened opened;
      Format::Open(lanes, opened);
      for (int g = 0; g < kGroups; ++g) {
        typename Format::Group group;
        Format::Load(lanes, opened, g, group);
      }
      lanes.NextBlock(Format::kBlockBytes);
    }
    packed += PackedBytesOf<Format>(matrix.columns);
    SPARSESERVE_DCHECK(reinterpret_cast<const std::byte*>(lanes.next()) ==
                       packed);
  }
}

// Calls use.template operator()<Format>().
template <class Use>
auto WithFormat(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::kQ4_0:
      return use.template operator()<IntegerQ4_0>();
    case DType::kQ4_1:
      return use.template operator()<IntegerQ4_1>();
    case DType::kQ5_0:
      return use.template operator()<IntegerQ5_0>();
    case DType::kQ5_1:
      return use.template operator()<IntegerQ5_1>();
    case DType::kQ4_K:
      return use.template operator()<IntegerQ4_K>();
    case DType::kQ5_K:
      return use.template operator()<IntegerQ5_K>();
    case DType::kQ6_K:
      return use.template operator()<IntegerQ6_K>();
    case DType::kQ8_0:
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  SPARSESERVE_CHECK(dtype == DType::kQ8_0);
  return use.template operator()<IntegerQ8_0>();
}

int64_t PackedBytes(DType dtype, int64_t columns) {
  return WithFormat(
      dtype, [&]<class Format>() { return PackedBytesOf<Format>(columns); });
}

void Pack(const StoredMatrix& matrix, std::byte* packed) {
  WithFormat(matrix.dtype,
             [&]<class Format>() { PackRows<Format>(matrix, packed); });
}

template <class Pairs>
void MultiplyStrip(const IntegerStrip& strip) {
  WithFormat(strip.dtype,
             [&]<class Format>() { MultiplyRows<Format, Pairs>(strip); });
}

// What a block's largest magnitude counts as at least: of all that is smaller,
// the reciprocal would overflow.
constexpr float kLeastMagnitude = 0x1p-100f;
constexpr float kLargestValue = 32767.0f;

void RoundRow(const float* input, const RoundedRows& rows) {
  const hn::Rebind<int16_t, DF> dw;
  // Of four elements the second and third change places.
  HWY_ALIGN static constexpr uint8_t kOrder[16] = {
      0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  const hn::Repartition<uint8_t, decltype(dw)> d8;
  const auto order = hn::LoadDup128(d8, kOrder);
  const VI magnitude_bits = hn::Set(DI(), 0x7FFFFFFF);
  for (int64_t k = 0; k < rows.columns; k += kRoundedColumns) {
    // Magnitudes compare as integers; an infinity or NaN is above all others.
    VI most = hn::Zero(DI());
    for (int i = 0; i < kRoundedColumns; i += kLanes) {
      const VI bits = hn::BitCast(DI(), hn::LoadU(DF(), input + k + i));
      most = hn::Max(most, hn::And(bits, magnitude_bits));
    }
    const auto largest =
        std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(DI(), most)));
    const bool is_finite = largest <= std::numeric_limits<float>::max();
    const float magnitude = is_finite ? std::max(largest, kLeastMagnitude)
                                      : std::numeric_limits<float>::quiet_NaN();
    const float scale = magnitude / kLargestValue;
    const VF inverse =
        hn::Set(DF(), is_finite ? kLargestValue / magnitude : 0.0f);
    VI sum = hn::Zero(DI());
    for (int i = 0; i < kRoundedColumns; i += kLanes) {
      const VF x = hn::Mul(hn::LoadU(DF(), input + k + i), inverse);
      const VI value = hn::NearestInt(x);
      sum = hn::Add(sum, value);
      const auto words = hn::BitCast(d8, hn::DemoteTo(dw, value));
      hn::StoreU(hn::BitCast(dw, hn::TableLookupBytes(words, order)), dw,
                 rows.values + k + i);
    }
    const int64_t block = k / kRoundedColumns;
    rows.scales[block] = scale;
    rows.sums[block] =
        scale * static_cast<float>(hn::GetLane(hn::SumOfLanes(DI(), sum)));
  }
}

const IntegerKernels* TargetIntegerKernels(bool allow_vnni) {
  static constexpr IntegerKernels kKernels = {
      kLanes, &PackedBytes, &Pack, &RoundRow, &MultiplyStrip<PairsByMadd>};
#if HWY_TARGET == HWY_AVX3
  static constexpr IntegerKernels kVnniKernels = {
      kLanes, &PackedBytes, &Pack, &RoundRow, &MultiplyStrip<PairsByVnni>};
  if (allow_vnni && HasVnni()) return &kVnniKernels;
#else
  static_cast<void>(allow_vnni);
#endif
  return &kKernels;
}

#endif  // a target with vectors

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparseserve::cpu {

HWY_EXPORT(TargetIntegerKernels);

const IntegerKernels* IntegerKernelsFor(SimdLevel level, bool allow_vnni) {
  return HWY_DISPATCH_TABLE(TargetIntegerKernels)[DispatchIndex(level)](
      allow_vnni);
}

bool HasVnni() { return __builtin_cpu_supports("avx512vnni"); }

bool HasIntegerProducts(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return true;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return false;
  }
  return false;
}

}  // namespace sparseserve::cpu
#endif  // HWY_ONCE
