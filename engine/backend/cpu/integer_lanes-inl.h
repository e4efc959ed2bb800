// Weight rows side by side in the lanes of vectors, compiled once per SIMD
// target. Include after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_INTEGER_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_INTEGER_LANES_INL_H_
#undef SPARSESERVE_CPU_INTEGER_LANES_INL_H_
#else
#define SPARSESERVE_CPU_INTEGER_LANES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/float_vectors-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Each 32-bit lane is another weight row: sums over columns never cross lanes,
// and what a row's blocks have as scales multiplies a whole vector.
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using DW = hn::Repartition<int16_t, DF>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
using VW = hn::Vec<DW>;

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

// Where a format's blocks come from. Columns are 4 bytes of every lane's row.
// Load() gives columns kFrom ... kFrom + kCount - 1 of the four from byte
// `offset` of the rows' present block on. A format loads the same columns in
// the same order for every block.

// Rows as they are stored, each by itself. All 16 bytes must be there.
class StoredLanes {
 public:
  explicit StoredLanes(const std::byte* const (&rows)[kLanes]) {
    for (int r = 0; r < kLanes; ++r) row_[r] = rows[r];
  }

  template <int kCount, int kFrom = 0>
  HWY_INLINE void Load(int64_t offset, VU* HWY_RESTRICT columns) {
    const hn::Repartition<uint64_t, DU> d64;
    VU v[4];
    for (int r = 0; r < 4; ++r) v[r] = StackBytes(DU(), r, offset);
    const auto low01 = hn::BitCast(d64, hn::InterleaveLower(DU(), v[0], v[1]));
    const auto low23 = hn::BitCast(d64, hn::InterleaveLower(DU(), v[2], v[3]));
    const auto up01 = hn::BitCast(d64, hn::InterleaveUpper(DU(), v[0], v[1]));
    const auto up23 = hn::BitCast(d64, hn::InterleaveUpper(DU(), v[2], v[3]));
    const VU all[4] = {
        hn::BitCast(DU(), hn::InterleaveLower(d64, low01, low23)),
        hn::BitCast(DU(), hn::InterleaveUpper(d64, low01, low23)),
        hn::BitCast(DU(), hn::InterleaveLower(d64, up01, up23)),
        hn::BitCast(DU(), hn::InterleaveUpper(d64, up01, up23))};
    for (int c = 0; c < kCount; ++c) columns[c] = all[kFrom + c];
  }
  HWY_INLINE void NextBlock(int64_t block_bytes) {
    for (const std::byte*& row : row_) row += block_bytes;
  }

 private:
  // 16 bytes of every fourth row from `first` on.
  template <class D>
  HWY_INLINE hn::Vec<D> StackBytes(D d, int first, int64_t offset) const {
    if constexpr (hn::MaxLanes(D()) == 4) {
      return hn::LoadU(d,
                       reinterpret_cast<const uint32_t*>(row_[first] + offset));
    } else {
      const hn::Half<D> half;
      constexpr int kHalf = static_cast<int>(hn::MaxLanes(D())) / 2;
      return hn::Combine(d, StackBytes(half, first + kHalf, offset),
                         StackBytes(half, first, offset));
    }
  }

  const std::byte* row_[kLanes];
};

// Columns as PackingLanes left them: one stream, aligned to vectors.
class PackedLanes {
 public:
  explicit PackedLanes(const std::byte* data)
      : next_(reinterpret_cast<const uint32_t*>(data)) {}

  template <int kCount, int kFrom = 0>
  HWY_INLINE void Load(int64_t, VU* HWY_RESTRICT columns) {
    for (int c = 0; c < kCount; ++c) {
      columns[c] = hn::Load(DU(), next_ + c * kLanes);
    }
    next_ += kCount * kLanes;
  }
  const uint32_t* next() const { return next_; }

 private:
  const uint32_t* next_;
};

// Stored rows, whose columns are also written to `data` as they are loaded.
class PackingLanes {
 public:
  PackingLanes(const StoredLanes& from, std::byte* data)
      : from_(from), next_(reinterpret_cast<uint32_t*>(data)) {}

  template <int kCount, int kFrom = 0>
  HWY_INLINE void Load(int64_t offset, VU* HWY_RESTRICT columns) {
    from_.Load<kCount, kFrom>(offset, columns);
    for (int c = 0; c < kCount; ++c) {
      hn::Store(columns[c], DU(), next_ + c * kLanes);
    }
    next_ += kCount * kLanes;
  }
  HWY_INLINE void NextBlock(int64_t block_bytes) {
    from_.NextBlock(block_bytes);
  }
  const uint32_t* next() const { return next_; }

 private:
  StoredLanes from_;
  uint32_t* next_;
};

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

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
