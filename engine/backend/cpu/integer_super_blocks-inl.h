// The integer formats with super-blocks of 256 elements, compiled once per SIMD
// target. Include after hwy/highway.h. What a format is:
// integer_formats-inl.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_INTEGER_SUPER_BLOCKS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_INTEGER_SUPER_BLOCKS_INL_H_
#undef SPARSESERVE_CPU_INTEGER_SUPER_BLOCKS_INL_H_
#else
#define SPARSESERVE_CPU_INTEGER_SUPER_BLOCKS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/integer_lanes-inl.h"
#include "engine/tensor/quant_blocks.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Super-blocks of 256 elements. Columns are kept for as many groups as share
// them.
template <class Block>
struct SuperBlockFormat {
  static constexpr int kColumns = kSuperBlockElements;
  static constexpr int64_t kBlockBytes = sizeof(Block);
  static constexpr int64_t kLoadedBytes = (sizeof(Block) + 3) / 4 * 4;
};

// BlockQ4_K and BlockQ5_K.
template <class Block>
struct PartsIntegers : SuperBlockFormat<Block> {
  static constexpr int kScales = 1;
  static constexpr bool kHasOffset = true;
  using Group = IntegerGroup<kScales>;
  struct Opened {
    VF d, minus_dmin;
    VU scales[2], mins[2];  // a byte for each of four parts
    VU quants[8];           // of two groups
    VU high_bits[8];        // of all, if the format has them
  };

  // What UnpackScales says, four bytes at a time.
  template <class Lanes>
  static HWY_INLINE void OpenScales(Lanes& lanes, Opened& opened) {
    VU header[4];
    lanes.template Load<4>(0, header);
    opened.d = LowHalves(header[0]);
    opened.minus_dmin = hn::Neg(LowHalves(hn::ShiftRight<16>(header[0])));
    opened.scales[0] = AndBytes(header[1], 0x3F);
    opened.mins[0] = AndBytes(header[2], 0x3F);
    opened.scales[1] = hn::Or(AndBytes(header[3], 0x0F),
                              AndBytes(hn::ShiftRight<2>(header[1]), 0x30));
    opened.mins[1] = hn::Or(AndBytes(hn::ShiftRight<4>(header[3]), 0x0F),
                            AndBytes(hn::ShiftRight<2>(header[2]), 0x30));
  }

  template <class Lanes>
  static HWY_INLINE void LoadGroup(Lanes& lanes, Opened& opened, int g,
                                   Group& group) {
    group.scale[0] = hn::Mul(opened.d, ByteOf(opened.scales[g / 4], g % 4));
    group.offset =
        hn::Mul(opened.minus_dmin, ByteOf(opened.mins[g / 4], g % 4));
    if (g % 2 != 0) return;
    const int64_t quants = offsetof(Block, quants) + 16 * g;
    lanes.template Load<4>(quants, opened.quants);
    lanes.template Load<4>(quants + 16, opened.quants + 4);
  }

 private:
  static HWY_INLINE VF ByteOf(VU lanes, int byte) {
    const VU bytes =
        hn::And(hn::ShiftRightSame(lanes, 8 * byte), hn::Set(DU(), 0xFF));
    return hn::ConvertTo(DF(), hn::BitCast(DI(), bytes));
  }
};

struct IntegerQ4_K : PartsIntegers<BlockQ4_K> {
  template <class Lanes>
  static HWY_INLINE void Open(Lanes& lanes, Opened& opened) {
    OpenScales(lanes, opened);
  }

  template <class Lanes>
  static HWY_INLINE void Load(Lanes& lanes, Opened& opened, int g,
                              Group& group) {
    LoadGroup(lanes, opened, g, group);
    for (int c = 0; c < 8; ++c) {
      if (g % 2 == 0) {
        SplitLowNibbles(opened.quants[c], group.words + 2 * c);
      } else {
        SplitHighNibbles(opened.quants[c], group.words + 2 * c);
      }
    }
  }
};

struct IntegerQ5_K : PartsIntegers<BlockQ5_K> {
  template <class Lanes>
  static HWY_INLINE void Open(Lanes& lanes, Opened& opened) {
    OpenScales(lanes, opened);
    lanes.template Load<4>(offsetof(BlockQ5_K, high_bits), opened.high_bits);
    lanes.template Load<4>(offsetof(BlockQ5_K, high_bits) + 16,
                           opened.high_bits + 4);
  }

  template <class Lanes>
  static HWY_INLINE void Load(Lanes& lanes, Opened& opened, int g,
                              Group& group) {
    LoadGroup(lanes, opened, g, group);
    for (int c = 0; c < 8; ++c) {
      const VU nibbles =
          AndBytes(hn::ShiftRightSame(opened.quants[c], 4 * (g % 2)), 15);
      const VU fifth = AndBytes(hn::ShiftRightSame(opened.high_bits[c], g), 1);
      SplitUnsigned(hn::Or(nibbles, hn::ShiftLeft<4>(fifth)),
                    group.words + 2 * c);
    }
  }
};

struct IntegerQ6_K : SuperBlockFormat<BlockQ6_K> {
  static constexpr int kScales = 2;
  static constexpr bool kHasOffset = false;
  using Group = IntegerGroup<kScales>;
  struct Opened {
    VF d;
    VU scales[4];     // sixteen signed bytes
    VU quants[16];    // of four groups
    VU high_bits[8];  // likewise
  };

  template <class Lanes>
  static HWY_INLINE void Open(Lanes& lanes, Opened& opened) {
    VU tail;
    lanes.template Load<1, 3>(sizeof(BlockQ6_K) - 16, &tail);
    static_assert(offsetof(BlockQ6_K, d) == sizeof(BlockQ6_K) - 2);
    opened.d = LowHalves(hn::ShiftRight<16>(tail));
    lanes.template Load<4>(offsetof(BlockQ6_K, scales), opened.scales);
  }

  template <class Lanes>
  static HWY_INLINE void Load(Lanes& lanes, Opened& opened, int g,
                              Group& group) {
    if (g % 4 == 0) LoadHalfBlock(lanes, g / 4, opened);
    group.scale[0] = hn::Mul(opened.d, ScaleOf(opened, 2 * g));
    group.scale[1] = hn::Mul(opened.d, ScaleOf(opened, 2 * g + 1));
    const int first = 8 * (g % 2);
    const int nibble_shift = g % 4 < 2 ? 0 : 4;
    const VW centre = hn::Set(DW(), 32);
    for (int c = 0; c < 8; ++c) {
      const VU low = AndBytes(
          hn::ShiftRightSame(opened.quants[first + c], nibble_shift), 15);
      const VU high =
          AndBytes(hn::ShiftRightSame(opened.high_bits[c], 2 * (g % 4)), 3);
      VW words[2];
      SplitUnsigned(hn::Or(low, hn::ShiftLeft<4>(high)), words);
      group.words[2 * c] = hn::Sub(words[0], centre);
      group.words[2 * c + 1] = hn::Sub(words[1], centre);
    }
  }

 private:
  template <class Lanes>
  static HWY_INLINE void LoadHalfBlock(Lanes& lanes, int half, Opened& opened) {
    for (int piece = 0; piece < 4; ++piece) {
      lanes.template Load<4>(half * 64 + piece * 16, opened.quants + 4 * piece);
    }
    const int64_t high = offsetof(BlockQ6_K, high_bits) + half * 32;
    lanes.template Load<4>(high, opened.high_bits);
    lanes.template Load<4>(high + 16, opened.high_bits + 4);
  }

  static HWY_INLINE VF ScaleOf(const Opened& opened, int part) {
    const VI lanes = hn::BitCast(DI(), opened.scales[part / 4]);
    const VI byte =
        hn::ShiftRight<24>(hn::ShiftLeftSame(lanes, 24 - 8 * (part % 4)));
    return hn::ConvertTo(DF(), byte);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
