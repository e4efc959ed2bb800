#include "engine/backend/cpu/linear_kernels.h"

#include <algorithm>
#include <type_traits>

#include "hwy/cache_control.h"

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/linear_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/lane_sums-inl.h"
#include "engine/backend/cpu/simd_dispatch.h"
#include "engine/backend/cpu/weight_formats-inl.h"
#include "engine/backend/cpu/super_block_formats-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

template <class Format>
void ExpandRowOf(const std::byte* row, int64_t columns, float* output) {
  for (int64_t k = 0; k < columns; k += Format::kColumns) {
    typename Format::Opened opened;
    Format::Open(row, opened);
    for (int g = 0; g < Format::kColumns / kColumnMultiple; ++g) {
      VF w[kVectors];
      Format::Load(row, opened, g, w);
      for (int v = 0; v < kVectors; ++v, output += kLanes) {
        hn::StoreU(w[v], DF(), output);
      }
    }
    row += Format::kBlockBytes;
  }
}

// Rows whose lanes are summed together.
constexpr int kSumTile = 4;

// Weight rows of a tile. Sums depend on their predecessors alone, so that many
// of them fill a multiply-add's latency: a single input row takes a strip. Not
// where a vector of 8 lanes needs registers for scales and nibbles of each row.
template <class Format, int kIn>
constexpr int kOutputTile =
    kIn == 1 && Format::kColumns > kColumnMultiple ? kStripRows : kSumTile;

// A tile of kIn input rows by kOut weight rows, with one vector of partial sums
// for each pair. Both ways of filling it add the same products to the same
// sums in the same order, so neither shows in the result.
template <int kIn, int kOut>
struct Tile {
  const std::byte* weights[kOut];
  const float* input[kIn];
  VF sums[(kOut + kSumTile - 1) / kSumTile * kSumTile][kIn];
};

// Straight from stored blocks. Rows are fetched two strips ahead: they are too
// short, and read four at a time, for the hardware to see a stream.
template <class Format, int kIn, int kOut>
HWY_INLINE void AddStored(const LinearStrip& strip, Tile<kIn, kOut>& tile) {
  constexpr int kFetchColumns =
      Format::kBlockBytes <= 32 ? 2 * Format::kColumns : Format::kColumns;
  const int64_t fetch_ahead = 2 * kStripRows * strip.row_bytes;
  int64_t offset = 0;
  for (int64_t k = 0; k < strip.columns; k += Format::kColumns) {
    typename Format::Opened opened[kOut];
    for (int n = 0; n < kOut; ++n) {
      const std::byte* block = tile.weights[n] + offset;
      for (int i = 0; k % kFetchColumns == 0 && i < Format::kBlockBytes;
           i += 64) {
        hwy::Prefetch(block + fetch_ahead + i);
      }
      Format::Open(block, opened[n]);
    }
    for (int g = 0; g < Format::kColumns / kColumnMultiple; ++g) {
      const int64_t first = k + g * kColumnMultiple;
      // Rolled up, the sums would be in memory.
      HWY_UNROLL(8)
      for (int n = 0; n < kOut; ++n) {
        VF w[kVectors];
        Format::Load(tile.weights[n] + offset, opened[n], g, w);
        for (int v = 0; v < kVectors; ++v) {
          for (int m = 0; m < kIn; ++m) {
            const VF x = hn::LoadU(DF(), tile.input[m] + first + v * kLanes);
            tile.sums[n][m] = hn::MulAdd(w[v], x, tile.sums[n][m]);
          }
        }
      }
    }
    offset += Format::kBlockBytes;
  }
}

// From floats in cache: input vectors stay in registers across weight rows.
template <int kIn, int kOut>
HWY_INLINE void AddFloats(const LinearStrip& strip, Tile<kIn, kOut>& tile) {
  for (int64_t k = 0; k < strip.columns; k += kLanes) {
    VF x[kIn];
    for (int m = 0; m < kIn; ++m) x[m] = hn::LoadU(DF(), tile.input[m] + k);
    for (int n = 0; n < kOut; ++n) {
      const VF w =
          hn::LoadU(DF(), reinterpret_cast<const float*>(tile.weights[n]) + k);
      for (int m = 0; m < kIn; ++m) {
        tile.sums[n][m] = hn::MulAdd(w, x[m], tile.sums[n][m]);
      }
    }
  }
}

template <class Format, int kIn, int kOut>
HWY_INLINE void MultiplyTile(const LinearStrip& strip, int64_t first_in,
                             int first_out) {
  Tile<kIn, kOut> tile;
  for (int n = 0; n < kOut; ++n) {
    tile.weights[n] = strip.weights + (first_out + n) * strip.row_bytes;
  }
  for (int m = 0; m < kIn; ++m) {
    tile.input[m] = strip.input + (first_in + m) * strip.input_stride;
  }
  for (auto& sums : tile.sums) {
    for (VF& sum : sums) sum = hn::Zero(DF());
  }
  if constexpr (std::is_same_v<Format, FormatF32>) {
    AddFloats(strip, tile);
  } else {
    AddStored<Format>(strip, tile);
  }
  for (int m = 0; m < kIn; ++m) {
    float* out =
        strip.output + (first_in + m) * strip.output_stride + first_out;
    for (int first = 0; first < kOut; first += kSumTile) {
      const auto* sums = tile.sums + first;
      const FourSums sum =
          SumLanes(sums[0][m], sums[1][m], sums[2][m], sums[3][m]);
      for (int n = first; n < std::min(kOut, first + kSumTile); ++n) {
        const float value = sum.value[n - first];
        out[n] = strip.accumulate ? out[n] + value : value;
      }
    }
  }
}

// All weight rows of a strip against kIn input rows.
template <class Format, int kIn>
void MultiplyRows(const LinearStrip& strip, int64_t first_in) {
  constexpr int kTall = kOutputTile<Format, kIn>;
  int n = 0;
  for (; n + kTall <= strip.rows; n += kTall) {
    MultiplyTile<Format, kIn, kTall>(strip, first_in, n);
  }
  for (; n + kSumTile <= strip.rows; n += kSumTile) {
    MultiplyTile<Format, kIn, kSumTile>(strip, first_in, n);
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
// A strip of so many expanded columns leaves room for input rows in a
// first-level cache.
constexpr int64_t kSegmentColumns = 768;

template <class Format>
void MultiplyStripOf(const LinearStrip& strip) {
  if (std::is_same_v<Format, FormatF32> || strip.input_rows < kExpandFromRows) {
    MultiplyAllRows<Format>(strip);
    return;
  }
  const int64_t bytes = strip.columns / Format::kColumns * Format::kBlockBytes;
  for (int n = 0; n < strip.rows; ++n) {
    const std::byte* row = strip.weights + n * strip.row_bytes;
    ExpandRowOf<Format>(row, strip.columns, strip.scratch + n * strip.columns);
    // The next strip arrives while this one is multiplied.
    const std::byte* next = row + kStripRows * strip.row_bytes;
    for (int64_t i = 0; i < bytes; i += 64) hwy::Prefetch(next + i);
  }
  LinearStrip expanded = strip;
  expanded.weights = reinterpret_cast<const std::byte*>(strip.scratch);
  expanded.row_bytes = strip.columns * sizeof(float);
  MultiplyAllRows<FormatF32>(expanded);
}

// Segments are added in order, for any number of rows.
template <class Format>
void MultiplySegments(const LinearStrip& strip) {
  static_assert(kSegmentColumns % Format::kColumns == 0);
  for (int64_t k = 0; k < strip.columns; k += kSegmentColumns) {
    LinearStrip segment = strip;
    segment.columns = std::min(kSegmentColumns, strip.columns - k);
    segment.weights += k / Format::kColumns * Format::kBlockBytes;
    segment.input += k;
    segment.accumulate = strip.accumulate || k > 0;
    MultiplyStripOf<Format>(segment);
  }
}

// Calls `body` with the format of `dtype`: the one place that knows them all.
template <class Body>
HWY_INLINE void WithFormat(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(FormatF32());
    case DType::kF16:
      return body(FormatHalf<hwy::float16_t>());
    case DType::kBF16:
      return body(FormatHalf<hwy::bfloat16_t>());
    case DType::kQ8_0:
      return body(FormatQ8_0());
    case DType::kQ4_0:
      return body(FormatQ4_0());
    case DType::kQ4_1:
      return body(FormatQ4_1());
    case DType::kQ5_0:
      return body(FormatQ5_0());
    case DType::kQ5_1:
      return body(FormatQ5_1());
    case DType::kQ4_K:
      return body(FormatQ4_K());
    case DType::kQ5_K:
      return body(FormatQ5_K());
    case DType::kQ6_K:
      return body(FormatQ6_K());
  }
}

void MultiplyStrip(const LinearStrip& strip) {
  WithFormat(strip.dtype, [&](auto format) HWY_ATTR {
    MultiplySegments<decltype(format)>(strip);
  });
}

void ExpandRow(DType dtype, const std::byte* row, int64_t columns,
               float* output) {
  WithFormat(dtype, [&](auto format) HWY_ATTR {
    ExpandRowOf<decltype(format)>(row, columns, output);
  });
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
