// How stored quantised blocks become vectors of 16-bit integers, compiled once
// per SIMD target. Include after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_INTEGER_FORMATS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_INTEGER_FORMATS_INL_H_
#undef SPARSESERVE_CPU_INTEGER_FORMATS_INL_H_
#else
#define SPARSESERVE_CPU_INTEGER_FORMATS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/integer_lanes-inl.h"
#include "engine/tensor/quant_blocks.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// The formats. A row is a sequence of blocks of kColumns. Open gathers what the
// groups of a block share, before Load makes them in ascending order; both take
// their columns from `lanes` (integer_lanes-inl.h). kLoadedBytes of each row
// are loaded for a block.

// Blocks of 32 elements, which are one group. x = d q + m, or d (q - kCentre)
// for blocks without `m`.
template <class Block, int kCentre, int kHeaderColumns>
struct BlockFormat {
  static constexpr int kColumns = kQuantBlockElements;
  static constexpr int64_t kBlockBytes = sizeof(Block);
  static constexpr int64_t kLoadedBytes =
      4 * kHeaderColumns + sizeof(Block::quants);
  static constexpr int kScales = 1;
  static constexpr bool kHasOffset = true;
  using Group = IntegerGroup<kScales>;
  struct Opened {
    VU header[kHeaderColumns];  // the first bytes of the block
  };

  template <class Lanes>
  static HWY_INLINE void Open(Lanes& lanes, Opened& opened) {
    lanes.template Load<kHeaderColumns>(0, opened.header);
  }

 protected:
  static HWY_INLINE void LoadScales(const Opened& opened, Group& group) {
    group.scale[0] = LowHalves(opened.header[0]);
    if constexpr (kCentre == 0) {
      group.offset = LowHalves(hn::ShiftRight<16>(opened.header[0]));
    } else {
      group.offset =
          hn::Mul(group.scale[0], hn::Set(DF(), static_cast<float>(-kCentre)));
    }
  }
};

template <class Block, int kCentre>
struct FourBitFormat : BlockFormat<Block, kCentre, 1> {
  using Base = BlockFormat<Block, kCentre, 1>;

  template <class Lanes>
  static HWY_INLINE void Load(Lanes& lanes, typename Base::Opened& opened, int,
                              typename Base::Group& group) {
    Base::LoadScales(opened, group);
    VU columns[4];
    lanes.template Load<4>(offsetof(Block, quants), columns);
    for (int c = 0; c < 4; ++c) {
      SplitLowNibbles(columns[c], group.words + 2 * c);
      SplitHighNibbles(columns[c], group.words + 8 + 2 * c);
    }
  }
};

template <class Block, int kCentre>
struct FiveBitFormat : BlockFormat<Block, kCentre, 2> {
  using Base = BlockFormat<Block, kCentre, 2>;

  template <class Lanes>
  static HWY_INLINE void Load(Lanes& lanes, typename Base::Opened& opened, int,
                              typename Base::Group& group) {
    Base::LoadScales(opened, group);
    const VU high_bits = HighBits(opened);
    VU columns[4];
    lanes.template Load<4>(offsetof(Block, quants), columns);
    for (int c = 0; c < 4; ++c) {
      const VU low = AndBytes(columns[c], 15);
      const VU up = AndBytes(hn::ShiftRight<4>(columns[c]), 15);
      SplitUnsigned(hn::Or(low, FifthBits(high_bits, c)), group.words + 2 * c);
      SplitUnsigned(hn::Or(up, FifthBits(high_bits, 4 + c)),
                    group.words + 8 + 2 * c);
    }
  }

 private:
  static HWY_INLINE VU HighBits(const typename Base::Opened& opened) {
    if constexpr (offsetof(Block, high_bits) == 4) {
      return opened.header[1];
    } else {
      static_assert(offsetof(Block, high_bits) == 2);
      return hn::Or(hn::ShiftRight<16>(opened.header[0]),
                    hn::ShiftLeft<16>(opened.header[1]));
    }
  }

  // 16 in byte b where bit 4 * quad + b is set.
  static HWY_INLINE VU FifthBits(VU high_bits, int quad) {
    const hn::Repartition<uint8_t, DU> d8;
    HWY_ALIGN static constexpr uint32_t kFirstByte[4] = {
        0x00000000, 0x04040404, 0x08080808, 0x0C0C0C0C};
    const VU byte = hn::Or(hn::LoadDup128(DU(), kFirstByte),
                           hn::Set(DU(), 0x01010101u * (quad / 2)));
    const auto spread =
        hn::TableLookupBytes(hn::BitCast(d8, high_bits), hn::BitCast(d8, byte));
    const auto bit = hn::BitCast(
        d8, hn::Set(DU(), quad % 2 == 0 ? 0x08040201u : 0x80402010u));
    return hn::BitCast(
        DU(), hn::IfThenElseZero(hn::TestBit(spread, bit), hn::Set(d8, 16)));
  }
};

using IntegerQ4_0 = FourBitFormat<BlockQ4_0, 8>;
using IntegerQ4_1 = FourBitFormat<BlockQ4_1, 0>;
using IntegerQ5_0 = FiveBitFormat<BlockQ5_0, 16>;
using IntegerQ5_1 = FiveBitFormat<BlockQ5_1, 0>;

struct IntegerQ8_0 : BlockFormat<BlockQ8_0, 0, 1> {
  static constexpr bool kHasOffset = false;

  template <class Lanes>
  static HWY_INLINE void Load(Lanes& lanes, Opened& opened, int, Group& group) {
    group.scale[0] = LowHalves(opened.header[0]);
    for (int piece = 0; piece < 2; ++piece) {
      VU columns[4];
      lanes.template Load<4>(offsetof(BlockQ8_0, quants) + 16 * piece, columns);
      for (int c = 0; c < 4; ++c) {
        SplitSigned(columns[c], group.words + 8 * piece + 2 * c);
      }
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
