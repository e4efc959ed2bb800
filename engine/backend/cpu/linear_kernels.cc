#include "engine/backend/cpu/linear_kernels.h"

#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/linear_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/simd_dispatch.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DI = hn::RebindToSigned<DF>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
// Vectors that hold the 32 elements of a block.
constexpr int kVectors = kColumnMultiple / kLanes;

HWY_INLINE VF BroadcastHalf(const std::byte* half) {
  // Blocks are longer than what this reads.
  const hn::CappedTag<float, 4> d4;
  const hn::Rebind<hwy::float16_t, decltype(d4)> dh;
  const auto halves =
      hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(half));
  return hn::Set(DF(), hn::GetLane(hn::PromoteTo(d4, halves)));
}

// The formats: how 32 consecutive elements of a row become kVectors of float,
// in element order.

struct FormatF32 {
  static constexpr int kBlockBytes = 128;
  static HWY_INLINE void Load(const std::byte* block, VF (&w)[kVectors]) {
    const float* elements = reinterpret_cast<const float*>(block);
    for (int v = 0; v < kVectors; ++v) {
      w[v] = hn::LoadU(DF(), elements + v * kLanes);
    }
  }
};

template <typename Element>  // hwy::float16_t or hwy::bfloat16_t
struct FormatHalf {
  static constexpr int kBlockBytes = 64;
  static HWY_INLINE void Load(const std::byte* block, VF (&w)[kVectors]) {
    const hn::Rebind<Element, DF> dh;
    const Element* elements = reinterpret_cast<const Element*>(block);
    for (int v = 0; v < kVectors; ++v) {
      w[v] = hn::PromoteTo(DF(), hn::LoadU(dh, elements + v * kLanes));
    }
  }
};

struct FormatQ8_0 {
  static constexpr int kBlockBytes = sizeof(BlockQ8_0);
  static HWY_INLINE void Load(const std::byte* block, VF (&w)[kVectors]) {
    const hn::Rebind<int8_t, DF> d8;
    const VF scale = BroadcastHalf(block);
    const int8_t* quants = reinterpret_cast<const int8_t*>(block + 2);
    for (int v = 0; v < kVectors; ++v) {
      const auto q = hn::PromoteTo(DI(), hn::LoadU(d8, quants + v * kLanes));
      w[v] = hn::Mul(hn::ConvertTo(DF(), q), scale);
    }
  }
};

// Nibbles of 16 bytes: the low ones are elements 0 ... 15, the high 16 ... 31.
HWY_INLINE void LoadNibbles(const std::byte* quants, VF scale, VF offset,
                            VF (&w)[kVectors]) {
  static_assert(kLanes <= 16);
  const hn::Rebind<uint8_t, DF> d8;
  const auto low_mask = hn::Set(DI(), 15);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(quants);
  for (int v = 0; v < kVectors / 2; ++v) {
    const auto both = hn::PromoteTo(DI(), hn::LoadU(d8, bytes + v * kLanes));
    const auto low = hn::And(both, low_mask);
    const auto high = hn::ShiftRight<4>(both);
    w[v] = hn::MulAdd(hn::ConvertTo(DF(), low), scale, offset);
    w[v + kVectors / 2] = hn::MulAdd(hn::ConvertTo(DF(), high), scale, offset);
  }
}

struct FormatQ4_0 {
  static constexpr int kBlockBytes = sizeof(BlockQ4_0);
  static HWY_INLINE void Load(const std::byte* block, VF (&w)[kVectors]) {
    const VF scale = BroadcastHalf(block);
    // d * q - 8 * d is exact: halves have 11 significant bits.
    const VF offset = hn::Mul(scale, hn::Set(DF(), -8.0f));
    LoadNibbles(block + 2, scale, offset, w);
  }
};

struct FormatQ4_1 {
  static constexpr int kBlockBytes = sizeof(BlockQ4_1);
  static HWY_INLINE void Load(const std::byte* block, VF (&w)[kVectors]) {
    LoadNibbles(block + 4, BroadcastHalf(block), BroadcastHalf(block + 2), w);
  }
};

template <class Format>
void ExpandRowOf(const std::byte* row, int64_t columns, float* output) {
  for (int64_t k = 0; k < columns; k += kColumnMultiple) {
    VF w[kVectors];
    Format::Load(row, w);
    row += Format::kBlockBytes;
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(w[v], DF(), output + k + v * kLanes);
    }
  }
}

// kIn input rows by kOut weight rows, with one vector of partial sums each:
// every product of a (row, weight row) pair enters the same sum in the same
// order, so kIn and kOut do not show in the result.
template <class Format, int kIn, int kOut>
HWY_INLINE void MultiplyTile(const LinearStrip& strip, int64_t first_in,
                             int first_out) {
  const DF d;
  const std::byte* weights[kOut];
  for (int n = 0; n < kOut; ++n) {
    weights[n] = strip.weights + (first_out + n) * strip.row_bytes;
  }
  const float* input[kIn];
  for (int m = 0; m < kIn; ++m) {
    input[m] = strip.input + (first_in + m) * strip.columns;
  }
  VF sums[kOut][kIn];
  for (int n = 0; n < kOut; ++n) {
    for (int m = 0; m < kIn; ++m) sums[n][m] = hn::Zero(d);
  }
  int64_t offset = 0;
  for (int64_t k = 0; k < strip.columns; k += kColumnMultiple) {
    for (int n = 0; n < kOut; ++n) {
      VF w[kVectors];
      Format::Load(weights[n] + offset, w);
      for (int v = 0; v < kVectors; ++v) {
        for (int m = 0; m < kIn; ++m) {
          const VF x = hn::LoadU(d, input[m] + k + v * kLanes);
          sums[n][m] = hn::MulAdd(w[v], x, sums[n][m]);
        }
      }
    }
    offset += Format::kBlockBytes;
  }
  for (int m = 0; m < kIn; ++m) {
    float* out = strip.output + (first_in + m) * strip.output_stride;
    for (int n = 0; n < kOut; ++n) {
      const float sum = hn::GetLane(hn::SumOfLanes(d, sums[n][m]));
      float& target = out[first_out + n];
      target = strip.accumulate ? target + sum : sum;
    }
  }
}

// All weight rows of a strip against kIn input rows.
template <class Format, int kIn>
void MultiplyRows(const LinearStrip& strip, int64_t first_in) {
  int n = 0;
  for (; n + 4 <= strip.rows; n += 4) {
    MultiplyTile<Format, kIn, 4>(strip, first_in, n);
  }
  for (; n < strip.rows; ++n) MultiplyTile<Format, kIn, 1>(strip, first_in, n);
}

constexpr int kInputTile = kLanes >= 16 ? 4 : 3;

template <class Format>
void MultiplyAllRows(const LinearStrip& strip) {
  int64_t m = 0;
  for (; m + kInputTile <= strip.input_rows; m += kInputTile) {
    MultiplyRows<Format, kInputTile>(strip, m);
  }
  switch (strip.input_rows - m) {
    case 3:
      return MultiplyRows<Format, 3>(strip, m);
    case 2:
      return MultiplyRows<Format, 2>(strip, m);
    case 1:
      return MultiplyRows<Format, 1>(strip, m);
    default:
      return;
  }
}

// From so many input rows on, expanding the strip into L1 once is cheaper
// than in registers once per tile.
constexpr int64_t kExpandFromRows = kInputTile + 1;

template <class Format>
void MultiplyStripOf(const LinearStrip& strip) {
  if (strip.input_rows < kExpandFromRows) {
    MultiplyAllRows<Format>(strip);
    return;
  }
  for (int n = 0; n < strip.rows; ++n) {
    ExpandRowOf<Format>(strip.weights + n * strip.row_bytes, strip.columns,
                        strip.scratch + n * strip.columns);
  }
  LinearStrip expanded = strip;
  expanded.weights = reinterpret_cast<const std::byte*>(strip.scratch);
  expanded.row_bytes = strip.columns * sizeof(float);
  MultiplyAllRows<FormatF32>(expanded);
}

void MultiplyStrip(const LinearStrip& strip) {
  switch (strip.dtype) {
    case DType::kF32:
      return MultiplyAllRows<FormatF32>(strip);
    case DType::kF16:
      return MultiplyStripOf<FormatHalf<hwy::float16_t>>(strip);
    case DType::kBF16:
      return MultiplyStripOf<FormatHalf<hwy::bfloat16_t>>(strip);
    case DType::kQ8_0:
      return MultiplyStripOf<FormatQ8_0>(strip);
    case DType::kQ4_0:
      return MultiplyStripOf<FormatQ4_0>(strip);
    case DType::kQ4_1:
      return MultiplyStripOf<FormatQ4_1>(strip);
  }
}

void ExpandRow(DType dtype, const std::byte* row, int64_t columns,
               float* output) {
  switch (dtype) {
    case DType::kF32:
      return ExpandRowOf<FormatF32>(row, columns, output);
    case DType::kF16:
      return ExpandRowOf<FormatHalf<hwy::float16_t>>(row, columns, output);
    case DType::kBF16:
      return ExpandRowOf<FormatHalf<hwy::bfloat16_t>>(row, columns, output);
    case DType::kQ8_0:
      return ExpandRowOf<FormatQ8_0>(row, columns, output);
    case DType::kQ4_0:
      return ExpandRowOf<FormatQ4_0>(row, columns, output);
    case DType::kQ4_1:
      return ExpandRowOf<FormatQ4_1>(row, columns, output);
  }
}

const LinearKernels& TargetLinearKernels() {
  static constexpr LinearKernels kKernels = {&MultiplyStrip, &ExpandRow};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparseserve::cpu {

HWY_EXPORT(TargetLinearKernels);

const LinearKernels& LinearKernelsFor(SimdLevel level) {
  return HWY_DISPATCH_TABLE(TargetLinearKernels)[DispatchIndex(level)]();
}

}  // namespace sparseserve::cpu
#endif  // HWY_ONCE
