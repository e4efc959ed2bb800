// How stored quantised weights become vectors of 16-bit integers, compiled once
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
#include <cstring>

#include "engine/tensor/quant_blocks.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Each 32-bit lane is another weight row: sums over columns never cross lanes,
// and what a row's blocks have as scales multiplies a whole vector.
using DF = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using DW = hn::Repartition<int16_t, DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
using VW = hn::Vec<DW>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));

// The weight rows of the lanes, from some column on.
struct LaneRows {
  const std::byte* row[kLanes];
};

// 32 elements of every lane's row: element i is
// scale[i * kScales / 32] * q[i] + offset.
template <int kScales>
struct IntegerGroup {
  // words[2 * j] holds q[4 j] and q[4 j + 2], words[2 * j + 1] the two between
  // and behind.
  VW words[16];
  VF scale[kScales];
  VF offset;  // of formats with kHasOffset
};

// 16 bytes of every fourth row from `first` on.
template <class D>
HWY_INLINE hn::Vec<D> StackBytes(D d, const LaneRows& rows, int first,
                                 int64_t bytes) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(
        d, reinterpret_cast<const uint32_t*>(rows.row[first] + bytes));
  } else {
    const hn::Half<D> half;
    constexpr int kHalf = static_cast<int>(hn::MaxLanes(D())) / 2;
    return hn::Combine(d, StackBytes(half, rows, first + kHalf, bytes),
                       StackBytes(half, rows, first, bytes));
  }
}

// Columns are 4 bytes of every row: bytes 4 c ... 4 c + 3 from `bytes` on for
// column c. This loads the first 2 or 4; all 16 bytes must be there.
template <int kCount>
HWY_INLINE void LoadColumns(const LaneRows& rows, int64_t bytes,
                            VU* HWY_RESTRICT columns) {
  const hn::Repartition<uint64_t, DU> d64;
  VU v[4];
  for (int r = 0; r < 4; ++r) v[r] = StackBytes(DU(), rows, r, bytes);
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(DU(), v[0], v[1]));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(DU(), v[2], v[3]));
  columns[0] = hn::BitCast(DU(), hn::InterleaveLower(d64, low01, low23));
  columns[1] = hn::BitCast(DU(), hn::InterleaveUpper(d64, low01, low23));
  if constexpr (kCount == 4) {
    const auto up01 = hn::BitCast(d64, hn::InterleaveUpper(DU(), v[0], v[1]));
    const auto up23 = hn::BitCast(d64, hn::InterleaveUpper(DU(), v[2], v[3]));
    columns[2] = hn::BitCast(DU(), hn::InterleaveLower(d64, up01, up23));
    columns[3] = hn::BitCast(DU(), hn::InterleaveUpper(d64, up01, up23));
  }
}

using DHalf = hn::Rebind<hwy::float16_t, DF>;
using DHalfBits = hn::RebindToUnsigned<DHalf>;

// The half in the low bits of each lane.
HWY_INLINE VF LowHalves(VU lanes) {
  return hn::PromoteTo(
      DF(), hn::BitCast(DHalf(), hn::TruncateTo(DHalfBits(), lanes)));
}

HWY_INLINE VU AndBytes(VU v, uint32_t byte) {
  return hn::And(v, hn::Set(DU(), byte * 0x01010101u));
}

// Bytes of a column as words: 0 and 2, then 1 and 3.
HWY_INLINE void SplitUnsigned(VU bytes, VW* words) {
  const hn::RebindToUnsigned<DW> dw;
  const auto both = hn::BitCast(dw, bytes);
  words[0] = hn::BitCast(DW(), hn::And(both, hn::Set(dw, 0xFF)));
  words[1] = hn::BitCast(DW(), hn::ShiftRight<8>(both));
}
HWY_INLINE void SplitSigned(VU bytes, VW* words) {
  const auto both = hn::BitCast(DW(), bytes);
  words[0] = hn::ShiftRight<8>(hn::ShiftLeft<8>(both));
  words[1] = hn::ShiftRight<8>(both);
}
// Likewise of the low and of the high nibbles of the bytes.
HWY_INLINE void SplitLowNibbles(VU bytes, VW* words) {
  const hn::RebindToUnsigned<DW> dw;
  const auto mask = hn::Set(dw, 15);
  const auto both = hn::BitCast(dw, bytes);
  words[0] = hn::BitCast(DW(), hn::And(both, mask));
  words[1] = hn::BitCast(DW(), hn::And(hn::ShiftRight<8>(both), mask));
}
HWY_INLINE void SplitHighNibbles(VU bytes, VW* words) {
  const hn::RebindToUnsigned<DW> dw;
  const auto mask = hn::Set(dw, 15);
  const auto both = hn::BitCast(dw, bytes);
  words[0] = hn::BitCast(DW(), hn::And(hn::ShiftRight<4>(both), mask));
  words[1] = hn::BitCast(DW(), hn::ShiftRight<12>(both));
}

// The formats. A row is a sequence of blocks of kColumns. Open gathers what the
// groups of a block share, before Load makes them in ascending order.

// Blocks of 32 elements, which are one group. x = d q + m, or d (q - kCentre)
// for blocks without `m`.
template <class Block, int kCentre>
struct BlockFormat {
  static constexpr int kColumns = kQuantBlockElements;
  static constexpr int64_t kBlockBytes = sizeof(Block);
  static constexpr int kScales = 1;
  static constexpr bool kHasOffset = true;
  using Group = IntegerGroup<kScales>;
  struct Opened {
    VU header[2];  // the first 8 bytes
  };

  static HWY_INLINE void Open(const LaneRows& rows, Opened& opened) {
    LoadColumns<2>(rows, 0, opened.header);
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
struct FourBitFormat : BlockFormat<Block, kCentre> {
  using Base = BlockFormat<Block, kCentre>;

  static HWY_INLINE void Load(const LaneRows& rows,
                              typename Base::Opened& opened, int,
                              typename Base::Group& group) {
    Base::LoadScales(opened, group);
    VU columns[4];
    LoadColumns<4>(rows, offsetof(Block, quants), columns);
    for (int c = 0; c < 4; ++c) {
      SplitLowNibbles(columns[c], group.words + 2 * c);
      SplitHighNibbles(columns[c], group.words + 8 + 2 * c);
    }
  }
};

template <class Block, int kCentre>
struct FiveBitFormat : BlockFormat<Block, kCentre> {
  using Base = BlockFormat<Block, kCentre>;

  static HWY_INLINE void Load(const LaneRows& rows,
                              typename Base::Opened& opened, int,
                              typename Base::Group& group) {
    Base::LoadScales(opened, group);
    const VU high_bits = HighBits(opened);
    VU columns[4];
    LoadColumns<4>(rows, offsetof(Block, quants), columns);
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

struct IntegerQ8_0 : BlockFormat<BlockQ8_0, 0> {
  static constexpr bool kHasOffset = false;

  static HWY_INLINE void Load(const LaneRows& rows, Opened& opened, int,
                              Group& group) {
    group.scale[0] = LowHalves(opened.header[0]);
    for (int piece = 0; piece < 2; ++piece) {
      VU columns[4];
      LoadColumns<4>(rows, offsetof(BlockQ8_0, quants) + 16 * piece, columns);
      for (int c = 0; c < 4; ++c) {
        SplitSigned(columns[c], group.words + 8 * piece + 2 * c);
      }
    }
  }
};

// Super-blocks of 256 elements. Columns are kept for as many groups as share
// them.
template <class Block>
struct SuperBlockFormat {
  static constexpr int kColumns = kSuperBlockElements;
  static constexpr int64_t kBlockBytes = sizeof(Block);
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
  static HWY_INLINE void OpenScales(const LaneRows& rows, Opened& opened) {
    VU header[4];
    LoadColumns<4>(rows, 0, header);
    opened.d = LowHalves(header[0]);
    opened.minus_dmin = hn::Neg(LowHalves(hn::ShiftRight<16>(header[0])));
    opened.scales[0] = AndBytes(header[1], 0x3F);
    opened.mins[0] = AndBytes(header[2], 0x3F);
    opened.scales[1] = hn::Or(AndBytes(header[3], 0x0F),
                              AndBytes(hn::ShiftRight<2>(header[1]), 0x30));
    opened.mins[1] = hn::Or(AndBytes(hn::ShiftRight<4>(header[3]), 0x0F),
                            AndBytes(hn::ShiftRight<2>(header[2]), 0x30));
  }

  static HWY_INLINE void LoadGroup(const LaneRows& rows, Opened& opened, int g,
                                   Group& group) {
    group.scale[0] = hn::Mul(opened.d, ByteOf(opened.scales[g / 4], g % 4));
    group.offset =
        hn::Mul(opened.minus_dmin, ByteOf(opened.mins[g / 4], g % 4));
    if (g % 2 != 0) return;
    const int64_t quants = offsetof(Block, quants) + 16 * g;
    LoadColumns<4>(rows, quants, opened.quants);
    LoadColumns<4>(rows, quants + 16, opened.quants + 4);
  }

 private:
  static HWY_INLINE VF ByteOf(VU lanes, int byte) {
    const VU bytes =
        hn::And(hn::ShiftRightSame(lanes, 8 * byte), hn::Set(DU(), 0xFF));
    return hn::ConvertTo(DF(), hn::BitCast(DI(), bytes));
  }
};

struct IntegerQ4_K : PartsIntegers<BlockQ4_K> {
  static HWY_INLINE void Open(const LaneRows& rows, Opened& opened) {
    OpenScales(rows, opened);
  }

  static HWY_INLINE void Load(const LaneRows& rows, Opened& opened, int g,
                              Group& group) {
    LoadGroup(rows, opened, g, group);
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
  static HWY_INLINE void Open(const LaneRows& rows, Opened& opened) {
    OpenScales(rows, opened);
    LoadColumns<4>(rows, offsetof(BlockQ5_K, high_bits), opened.high_bits);
    LoadColumns<4>(rows, offsetof(BlockQ5_K, high_bits) + 16,
                   opened.high_bits + 4);
  }

  static HWY_INLINE void Load(const LaneRows& rows, Opened& opened, int g,
                              Group& group) {
    LoadGroup(rows, opened, g, group);
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

  static HWY_INLINE void Open(const LaneRows& rows, Opened& opened) {
    VU tail[4];
    LoadColumns<4>(rows, sizeof(BlockQ6_K) - 16, tail);
    static_assert(offsetof(BlockQ6_K, d) == sizeof(BlockQ6_K) - 2);
    opened.d = LowHalves(hn::ShiftRight<16>(tail[3]));
    LoadColumns<4>(rows, offsetof(BlockQ6_K, scales), opened.scales);
  }

  static HWY_INLINE void Load(const LaneRows& rows, Opened& opened, int g,
                              Group& group) {
    if (g % 4 == 0) LoadHalfBlock(rows, g / 4, opened);
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
  static HWY_INLINE void LoadHalfBlock(const LaneRows& rows, int half,
                                       Opened& opened) {
    for (int piece = 0; piece < 4; ++piece) {
      LoadColumns<4>(rows, half * 64 + piece * 16, opened.quants + 4 * piece);
    }
    const int64_t high = offsetof(BlockQ6_K, high_bits) + half * 32;
    LoadColumns<4>(rows, high, opened.high_bits);
    LoadColumns<4>(rows, high + 16, opened.high_bits + 4);
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
