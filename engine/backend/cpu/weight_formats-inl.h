// How stored weight formats become float vectors, compiled once per SIMD
// target. Include after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_WEIGHT_FORMATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_WEIGHT_FORMATS_INL_H_
#undef SPARSESERVE_CPU_WEIGHT_FORMATS_INL_H_
#else
#define SPARSESERVE_CPU_WEIGHT_FORMATS_INL_H_
#endif

#include <cstring>

#include "engine/backend/cpu/float_vectors-inl.h"
#include "engine/backend/cpu/linear_kernels.h"
#include "engine/tensor/quant_blocks.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

using DI = hn::RebindToSigned<DF>;

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

// The formats: how a block of kColumns elements of a row becomes float. Open
// decodes what the block's groups of 32 elements share; Load makes one group,
// in element order. Both give DequantizeRow's values: a half times integers of
// up to 13 bits is exact in float, so at most the last addition rounds.

// For the formats whose groups share nothing, because there is only one.
struct OneGroup {};
template <int kBytes>
struct GroupFormat {
  static constexpr int kColumns = kColumnMultiple;
  static constexpr int kBlockBytes = kBytes;
  using Opened = OneGroup;
  static HWY_INLINE void Open(const std::byte*, Opened&) {}
};

struct FormatF32 : GroupFormat<128> {
  static HWY_INLINE void Load(const std::byte* block, const Opened&, int,
                              VF (&w)[kVectors]) {
    const float* elements = reinterpret_cast<const float*>(block);
    for (int v = 0; v < kVectors; ++v) {
      w[v] = hn::LoadU(DF(), elements + v * kLanes);
    }
  }
};

template <typename Element>  // hwy::float16_t or hwy::bfloat16_t
struct FormatHalf : GroupFormat<64> {
  static HWY_INLINE void Load(const std::byte* block, const OneGroup&, int,
                              VF (&w)[kVectors]) {
    const hn::Rebind<Element, DF> dh;
    const Element* elements = reinterpret_cast<const Element*>(block);
    for (int v = 0; v < kVectors; ++v) {
      w[v] = hn::PromoteTo(DF(), hn::LoadU(dh, elements + v * kLanes));
    }
  }
};

struct FormatQ8_0 : GroupFormat<sizeof(BlockQ8_0)> {
  static HWY_INLINE void Load(const std::byte* block, const Opened&, int,
                              VF (&w)[kVectors]) {
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

struct FormatQ4_0 : GroupFormat<sizeof(BlockQ4_0)> {
  static HWY_INLINE void Load(const std::byte* block, const Opened&, int,
                              VF (&w)[kVectors]) {
    const VF scale = BroadcastHalf(block);
    LoadNibbles(block + 2, scale, hn::Mul(scale, hn::Set(DF(), -8.0f)), w);
  }
};

struct FormatQ4_1 : GroupFormat<sizeof(BlockQ4_1)> {
  static HWY_INLINE void Load(const std::byte* block, const Opened&, int,
                              VF (&w)[kVectors]) {
    LoadNibbles(block + 4, BroadcastHalf(block), BroadcastHalf(block + 2), w);
  }
};

// As LoadNibbles, with the elements' fifth bits in the 32 bits before.
HWY_INLINE void LoadFiveBits(const std::byte* high_bits, VF scale, VF offset,
                             VF (&w)[kVectors]) {
  static_assert(kLanes <= 16);
  const hn::Rebind<uint8_t, DF> d8;
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(high_bits + 4);
  uint32_t high;
  std::memcpy(&high, high_bits, sizeof(high));
  // Where element 0, and then 16, has its bit at the place that it belongs to.
  const auto first = hn::Set(DI(), static_cast<int32_t>(high << 4));
  const auto second = hn::Set(DI(), static_cast<int32_t>(high >> 12));
  const auto low_mask = hn::Set(DI(), 15);
  const auto high_mask = hn::Set(DI(), 16);
  for (int v = 0; v < kVectors / 2; ++v) {
    const auto element = hn::Iota(DI(), v * kLanes);
    const auto both = hn::PromoteTo(DI(), hn::LoadU(d8, bytes + v * kLanes));
    const auto low = hn::Or(hn::And(both, low_mask),
                            hn::And(hn::Shr(first, element), high_mask));
    const auto up = hn::Or(hn::ShiftRight<4>(both),
                           hn::And(hn::Shr(second, element), high_mask));
    w[v] = hn::MulAdd(hn::ConvertTo(DF(), low), scale, offset);
    w[v + kVectors / 2] = hn::MulAdd(hn::ConvertTo(DF(), up), scale, offset);
  }
}

struct FormatQ5_0 : GroupFormat<sizeof(BlockQ5_0)> {
  static HWY_INLINE void Load(const std::byte* block, const Opened&, int,
                              VF (&w)[kVectors]) {
    const VF scale = BroadcastHalf(block);
    LoadFiveBits(block + 2, scale, hn::Mul(scale, hn::Set(DF(), -16.0f)), w);
  }
};

struct FormatQ5_1 : GroupFormat<sizeof(BlockQ5_1)> {
  static HWY_INLINE void Load(const std::byte* block, const Opened&, int,
                              VF (&w)[kVectors]) {
    LoadFiveBits(block + 4, BroadcastHalf(block), BroadcastHalf(block + 2), w);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
