#include "engine/backend/cpu/profile_kernels.h"

#include <algorithm>

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/profile_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/float_vectors-inl.h"
#include "engine/backend/cpu/simd_dispatch.h"
#include "engine/backend/cpu/simd_math-inl.h"
#include "engine/backend/cpu/tile_products-inl.h"
#include "engine/backend/cpu/transpose-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Stands for the logarithm of a hidden key's weight: e to it is 0, and it times
// 0 is 0, which minus infinity would not do.
constexpr float kHiddenLog = -1000.0f;

static_assert(ProfileScratch::kSlack >= kLanes);

// Lanes i, i + 1, ... that are in [begin, end).
HWY_INLINE hn::Mask<DF> LanesWithin(int begin, int end, int i) {
  const auto first = [i](int count) HWY_ATTR {
    return hn::FirstN(DF(), static_cast<size_t>(std::max(count - i, 0)));
  };
  return hn::AndNot(first(begin), first(end));
}

// Turns a row of raw scores into weights and adds them up.
HWY_NOINLINE void WeighRow(int row, int columns, float scale,
                           int64_t first_diagonal, ProfileScratch& scratch) {
  const DF d;
  float* const weights = scratch.weights + row * kBlockKeys;
  float* const diagonals = scratch.diagonals.data() + first_diagonal;
  const int begin = scratch.visible_begin[row];
  const int end = scratch.visible_end[row];
  const VF lse = hn::Set(d, scratch.lse[row]);
  VF entropy = hn::Zero(d);
  for (int i = 0; i < columns; i += kLanes) {
    VF log_weight =
        hn::MulSub(hn::LoadU(d, weights + i), hn::Set(d, scale), lse);
    if (i < begin || i + kLanes > end) {
      log_weight = hn::IfThenElse(LanesWithin(begin, end, i), log_weight,
                                  hn::Set(d, kHiddenLog));
    }
    const VF weight = Exp(d, log_weight);
    entropy = hn::NegMulAdd(weight, log_weight, entropy);
    hn::StoreU(weight, d, weights + i);
    hn::StoreU(hn::Add(hn::LoadU(d, scratch.key_weights + i), weight), d,
               scratch.key_weights + i);
    hn::StoreU(hn::Add(hn::LoadU(d, diagonals + i), weight), d, diagonals + i);
  }
  scratch.entropy[row] += hn::GetLane(hn::SumOfLanes(d, entropy));
}

template <int kRows>
void AddBlockToRows(const ProfileBlock& block, int first,
                    ProfileScratch& scratch) {
  const Right<float> keys = {scratch.keys, kBlockKeys, block.head_dim,
                             (block.loaded_keys + 15) / 16 * 16};
  float* const scores = scratch.weights + first * kBlockKeys;
  Multiply<kRows>(scratch.queries + first, keys, {scores, kBlockKeys, nullptr});
  for (int r = 0; r < kRows; ++r) {
    float scale = block.scale;
    if (block.softcap > 0) {
      CapScores(keys.columns, scale, block.softcap, scores + r * kBlockKeys);
      scale = 1;
    }
    const int row = first + r;
    WeighRow(row, keys.columns, scale, block.first_key + kBlockKeys - 1 - row,
             scratch);
  }
}

void AddBlock(const ProfileBlock& block, ProfileScratch& scratch) {
  const auto no_next = [](int, int) {};
  if (block.dtype == DType::kBF16) {
    TransposeRows(reinterpret_cast<const hwy::bfloat16_t*>(block.keys),
                  block.loaded_keys, block.head_dim, scratch.keys, no_next);
  } else {
    TransposeRows(reinterpret_cast<const float*>(block.keys), block.loaded_keys,
                  block.head_dim, scratch.keys, no_next);
  }
  std::fill_n(scratch.key_weights, kBlockKeys, 0.0f);
  int row = 0;
  for (; row + kTileRows <= block.rows; row += kTileRows) {
    AddBlockToRows<kTileRows>(block, row, scratch);
  }
  for (; row < block.rows; ++row) AddBlockToRows<1>(block, row, scratch);
}

const ProfileKernels& TargetProfileKernels() {
  static constexpr ProfileKernels kKernels = {&AddBlock};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparseserve::cpu {

HWY_EXPORT(TargetProfileKernels);

const ProfileKernels& ProfileKernelsFor(SimdLevel level) {
  return HWY_DISPATCH_TABLE(TargetProfileKernels)[DispatchIndex(level)]();
}

}  // namespace sparseserve::cpu
#endif  // HWY_ONCE
