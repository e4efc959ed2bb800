// The formats with super-blocks of 256 elements, compiled once per SIMD target.
// Include after hwy/highway.h. What a format is: weight_formats-inl.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_SUPER_BLOCK_FORMATS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_SUPER_BLOCK_FORMATS_INL_H_
#undef SPARSESERVE_CPU_SUPER_BLOCK_FORMATS_INL_H_
#else
#define SPARSESERVE_CPU_SUPER_BLOCK_FORMATS_INL_H_
#endif

#include <cstring>

#include "engine/backend/cpu/weight_formats-inl.h"
#include "engine/tensor/quant_blocks.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Quants of a super-block are put together 32 at a time as bytes, in cache:
// that is less work than in the lanes of floats.
using DQ = hn::CappedTag<uint8_t, 32>;

// An opened BlockQ4_K or BlockQ5_K: x[i] = scales[i / 32] * quants[i] +
// offsets[i / 32].
struct ScaledParts {
  float scales[8];
  float offsets[8];
  uint8_t quants[kSuperBlockElements];
};

template <class Block>
struct PartsFormat {
  static constexpr int kColumns = kSuperBlockElements;
  static constexpr int kBlockBytes = sizeof(Block);
  using Opened = ScaledParts;

  static HWY_INLINE void Load(const std::byte*, const Opened& opened, int group,
                              VF (&w)[kVectors]) {
    const hn::Rebind<uint8_t, DF> d8;
    const VF scale = hn::Set(DF(), opened.scales[group]);
    const VF offset = hn::Set(DF(), opened.offsets[group]);
    const uint8_t* quants = opened.quants + group * kColumnMultiple;
    for (int v = 0; v < kVectors; ++v) {
      const auto q = hn::PromoteTo(DI(), hn::LoadU(d8, quants + v * kLanes));
      w[v] = hn::MulAdd(hn::ConvertTo(DF(), q), scale, offset);
    }
  }

 protected:
  // Eight integers of a byte times `factor`.
  static HWY_INLINE void Scale(uint64_t integers, float factor,
                               float (&scaled)[8]) {
    const hn::CappedTag<float, 8> d;
    const hn::RebindToSigned<decltype(d)> di;
    uint8_t bytes[8];
    std::memcpy(bytes, &integers, sizeof(bytes));
    for (size_t i = 0; i < 8; i += hn::Lanes(d)) {
      const auto q = hn::PromoteTo(
          di, hn::LoadU(hn::Rebind<uint8_t, decltype(d)>(), bytes + i));
      hn::StoreU(hn::Mul(hn::ConvertTo(d, q), hn::Set(d, factor)), d,
                 scaled + i);
    }
  }

  // What UnpackScales says, four bytes at a time.
  static HWY_INLINE void OpenScales(const Block& block, Opened& opened) {
    uint32_t packed[3];
    std::memcpy(packed, block.scales, sizeof(packed));
    const auto join = [](uint32_t first, uint32_t low, uint32_t high) {
      const uint64_t later = (low & 0x0f0f0f0f) | (high & 0x30303030);
      return (first & 0x3f3f3f3f) | later << 32;
    };
    Scale(
        join(packed[0], packed[2], packed[0] >> 2),
        hn::GetLane(BroadcastHalf(reinterpret_cast<const std::byte*>(&block))),
        opened.scales);
    Scale(join(packed[1], packed[2] >> 4, packed[1] >> 2),
          -hn::GetLane(
              BroadcastHalf(reinterpret_cast<const std::byte*>(&block.dmin))),
          opened.offsets);
  }
};

struct FormatQ4_K : PartsFormat<BlockQ4_K> {
  static HWY_INLINE void Open(const std::byte* bytes, Opened& opened) {
    const auto& block = *reinterpret_cast<const BlockQ4_K*>(bytes);
    OpenScales(block, opened);
    const DQ d;
    const auto low_mask = hn::Set(d, 15);
    for (int pair = 0; pair < 4; ++pair) {
      uint8_t* quants = opened.quants + pair * 64;
      for (size_t i = 0; i < 32; i += hn::Lanes(d)) {
        const auto both = hn::LoadU(d, block.quants + pair * 32 + i);
        hn::StoreU(hn::And(both, low_mask), d, quants + i);
        hn::StoreU(hn::ShiftRight<4>(both), d, quants + 32 + i);
      }
    }
  }
};

struct FormatQ5_K : PartsFormat<BlockQ5_K> {
  static HWY_INLINE void Open(const std::byte* bytes, Opened& opened) {
    const auto& block = *reinterpret_cast<const BlockQ5_K*>(bytes);
    OpenScales(block, opened);
    const DQ d;
    const auto low_mask = hn::Set(d, 15);
    for (size_t i = 0; i < 32; i += hn::Lanes(d)) {
      const auto high = hn::LoadU(d, block.high_bits + i);
      for (int pair = 0; pair < 4; ++pair) {
        uint8_t* quants = opened.quants + pair * 64 + i;
        const auto both = hn::LoadU(d, block.quants + pair * 32 + i);
        hn::StoreU(hn::Or(hn::And(both, low_mask), FifthBits(high, 2 * pair)),
                   d, quants);
        hn::StoreU(
            hn::Or(hn::ShiftRight<4>(both), FifthBits(high, 2 * pair + 1)), d,
            quants + 32);
      }
    }
  }

 private:
  // 16 where bit `part` is set.
  static HWY_INLINE hn::Vec<DQ> FifthBits(hn::Vec<DQ> high, int part) {
    const DQ d;
    const auto bit = hn::Set(d, static_cast<uint8_t>(1 << part));
    return hn::IfThenElseZero(hn::TestBit(high, bit), hn::Set(d, 16));
  }
};

struct FormatQ6_K {
  static constexpr int kColumns = kSuperBlockElements;
  static constexpr int kBlockBytes = sizeof(BlockQ6_K);
  // x[i] = scales[i / 16] * quants[i].
  struct Opened {
    float scales[16];
    int8_t quants[kSuperBlockElements];
  };

  static HWY_INLINE void Open(const std::byte* bytes, Opened& opened) {
    const auto& block = *reinterpret_cast<const BlockQ6_K*>(bytes);
    OpenScales(block, opened);
    const DQ d;
    const auto low_mask = hn::Set(d, 15);
    for (int half = 0; half < 2; ++half) {
      for (size_t i = 0; i < 32; i += hn::Lanes(d)) {
        const auto even = hn::LoadU(d, block.quants + half * 64 + i);
        const auto odd = hn::LoadU(d, block.quants + half * 64 + 32 + i);
        const auto high = hn::LoadU(d, block.high_bits + half * 32 + i);
        int8_t* quants = opened.quants + half * 128 + i;
        Store(hn::And(even, low_mask), hn::ShiftLeft<4>(high), quants);
        Store(hn::And(odd, low_mask), hn::ShiftLeft<2>(high), quants + 32);
        Store(hn::ShiftRight<4>(even), high, quants + 64);
        Store(hn::ShiftRight<4>(odd), hn::ShiftRight<2>(high), quants + 96);
      }
    }
  }

  static HWY_INLINE void Load(const std::byte*, const Opened& opened, int group,
                              VF (&w)[kVectors]) {
    const hn::Rebind<int8_t, DF> d8;
    const int8_t* quants = opened.quants + group * kColumnMultiple;
    const float* scales = opened.scales + group * 2;
    for (int v = 0; v < kVectors; ++v) {
      const auto q = hn::PromoteTo(DI(), hn::LoadU(d8, quants + v * kLanes));
      w[v] = hn::Mul(hn::ConvertTo(DF(), q),
                     hn::Set(DF(), scales[v * kLanes / 16]));
    }
  }

 private:
  // The two bits of a quant that `high` has at their place, above the `low`.
  static HWY_INLINE void Store(hn::Vec<DQ> low, hn::Vec<DQ> high,
                               int8_t* quants) {
    const DQ d;
    const auto q = hn::Or(low, hn::And(high, hn::Set(d, 48)));
    hn::StoreU(hn::Sub(q, hn::Set(d, 32)), d,
               reinterpret_cast<uint8_t*>(quants));
  }

  static HWY_INLINE void OpenScales(const BlockQ6_K& block, Opened& opened) {
    const hn::Rebind<int8_t, DF> d8;
    // A copy, since BroadcastHalf reads more than the block's last bytes.
    const uint64_t halves = block.d;
    const VF d = BroadcastHalf(reinterpret_cast<const std::byte*>(&halves));
    for (int i = 0; i < 16; i += kLanes) {
      const auto q = hn::PromoteTo(DI(), hn::LoadU(d8, block.scales + i));
      hn::StoreU(hn::Mul(hn::ConvertTo(DF(), q), d), DF(), opened.scales + i);
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
