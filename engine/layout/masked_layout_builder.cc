#include "engine/layout/masked_layout_builder.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <string_view>
#include <utility>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

constexpr int64_t kBlockKeys = kPageTokens;
constexpr uint64_t kAllKeys = ~uint64_t{0};

int32_t BlockOf(int64_t slot) {
  return static_cast<int32_t>(slot / kBlockKeys);
}

// Bits of a block that lie in [begin, end).
uint64_t BitsOf(int32_t block, int64_t begin, int64_t end) {
  const int64_t first = block * kBlockKeys;
  begin = std::max<int64_t>(begin - first, 0);
  end = std::min(end - first, kBlockKeys);
  if (begin >= end) return 0;
  return (kAllKeys >> (kBlockKeys - (end - begin))) << begin;
}

size_t HashOf(absl::Span<const float> values) {
  return std::hash<std::string_view>()(
      {reinterpret_cast<const char*>(values.data()),
       values.size() * sizeof(float)});
}

}  // namespace

MaskedLayoutBuilder::MaskedLayoutBuilder(int32_t heads,
                                         const std::vector<bool>& has_key)
    : has_key_((has_key.size() + kBlockKeys - 1) / kBlockKeys),
      masked_at_(has_key_.size(), -1),
      biased_at_(has_key_.size(), -1) {
  SPARSESERVE_CHECK(heads >= 1);
  layout_.kv_heads = heads;
  layout_.has_masks = true;
  for (size_t slot = 0; slot < has_key.size(); ++slot) {
    if (!has_key[slot]) continue;
    has_key_[slot / kBlockKeys] |= uint64_t{1} << (slot % kBlockKeys);
  }
}

void MaskedLayoutBuilder::BeginList(int32_t rows) {
  SPARSESERVE_CHECK(rows >= 1 && rows <= kBlockKeys);
  rows_ = rows;
  for (const MaskedBlock& masked : masked_) masked_at_[masked.block] = -1;
  for (const BiasedBlock& biased : biased_) biased_at_[biased.block] = -1;
  whole_.clear();
  masked_.clear();
  biased_.clear();
}

void MaskedLayoutBuilder::Show(const Rows& rows, const Keys& keys) {
  ShowMoving(rows, keys, 0, keys);
}

void MaskedLayoutBuilder::ShowBand(const Rows& rows, const Keys& keys,
                                   const Keys& bounds) {
  ShowMoving(rows, keys, 1, bounds);
}

void MaskedLayoutBuilder::ShowMoving(const Rows& rows, const Keys& keys,
                                     int64_t step, const Keys& bounds) {
  const int64_t moved = (rows.end - rows.begin - 1) * step;
  // What some row sees, and what all of them do.
  const Keys some = {std::max(keys.begin, bounds.begin),
                     std::min(keys.end + moved, bounds.end)};
  const Keys common = {std::max(keys.begin + moved, bounds.begin),
                       std::min(keys.end, bounds.end)};
  if (some.begin >= some.end) return;
  SPARSESERVE_CHECK(some.begin >= 0 &&
                    some.end <= std::ssize(has_key_) * kBlockKeys);
  BlockRange whole;
  if (rows.end - rows.begin == rows_ && common.begin < common.end) {
    whole = {BlockOf(common.begin + kBlockKeys - 1), BlockOf(common.end)};
  }
  if (whole.begin < whole.end) whole_.push_back(whole);
  for (int32_t block = BlockOf(some.begin); block <= BlockOf(some.end - 1);
       ++block) {
    if (block >= whole.begin && block < whole.end) {
      block = whole.end - 1;
      continue;
    }
    Mask& mask = MaskOf(block);
    for (int32_t r = rows.begin; r < rows.end; ++r) {
      const int64_t by = (r - rows.begin) * step;
      mask[r] |= BitsOf(block, std::max(keys.begin + by, bounds.begin),
                        std::min(keys.end + by, bounds.end));
    }
  }
}

void MaskedLayoutBuilder::ShowBits(int32_t row, int32_t block, uint64_t bits) {
  if (bits != 0) MaskOf(block)[row] |= bits;
}

void MaskedLayoutBuilder::AddBias(const Rows& rows, const Keys& keys,
                                  float bias) {
  if (keys.begin >= keys.end) return;
  for (int32_t block = BlockOf(keys.begin); block <= BlockOf(keys.end - 1);
       ++block) {
    std::vector<float>& values = BiasOf(block).values;
    values.resize(kBlockKeys * kBlockKeys);
    const int64_t first = block * kBlockKeys;
    const int64_t begin = std::max<int64_t>(keys.begin - first, 0);
    const int64_t end = std::min(keys.end - first, kBlockKeys);
    for (int32_t r = rows.begin; r < rows.end; ++r) {
      for (int64_t k = begin; k < end; ++k) values[r * kBlockKeys + k] += bias;
    }
  }
}

void MaskedLayoutBuilder::SetBias(int32_t block, int32_t bias_tile) {
  BiasOf(block).bias_tile = bias_tile;
}

int32_t MaskedLayoutBuilder::EndList() {
  const auto by_block = [](const auto& a, const auto& b) {
    return a.block < b.block;
  };
  std::sort(masked_.begin(), masked_.end(), by_block);
  std::sort(whole_.begin(), whole_.end(),
            [](const auto& a, const auto& b) { return a.begin < b.begin; });
  const size_t before =
      layout_.full_blocks.size() + layout_.partial_blocks.size();
  Mask all;
  all.fill(kAllKeys);
  auto masked = masked_.begin();
  int32_t next = 0;  // no block before it is left
  const auto emit_masked_before = [&](int32_t end) {
    for (; masked != masked_.end() && masked->block < end; ++masked) {
      if (masked->block >= next) Emit(masked->block, masked->mask);
    }
  };
  for (const BlockRange& range : whole_) {
    emit_masked_before(range.begin);
    for (next = std::max(next, range.begin); next < range.end; ++next) {
      Emit(next, all);
    }
  }
  emit_masked_before(static_cast<int32_t>(has_key_.size()));
  if (layout_.full_blocks.size() + layout_.partial_blocks.size() == before) {
    return -1;
  }
  layout_.full_offsets.push_back(layout_.full_blocks.size());
  layout_.partial_offsets.push_back(layout_.partial_blocks.size());
  return static_cast<int32_t>(layout_.lists()) - 1;
}

void MaskedLayoutBuilder::AddTile(const QueryTile& tile,
                                  absl::Span<const int32_t> lists) {
  SPARSESERVE_CHECK(static_cast<int32_t>(lists.size()) == layout_.kv_heads);
  layout_.tiles.push_back(tile);
  for (const int32_t list : lists) {
    SPARSESERVE_CHECK(list >= 0 && list < layout_.lists());
    layout_.list_of.push_back(list);
  }
}

int32_t MaskedLayoutBuilder::AddBiasTile(absl::Span<const float> values) {
  constexpr int64_t kSize = kBlockKeys * kBlockKeys;
  SPARSESERVE_CHECK(values.size() == kSize);
  std::vector<float>& tiles = layout_.bias_tiles;
  const size_t hash = HashOf(values);
  const auto [first, end] = bias_tile_of_.equal_range(hash);
  for (auto known = first; known != end; ++known) {
    if (std::equal(values.begin(), values.end(),
                   tiles.begin() + known->second * kSize)) {
      return known->second;
    }
  }
  const auto added =
      static_cast<int32_t>(static_cast<int64_t>(tiles.size()) / kSize);
  tiles.insert(tiles.end(), values.begin(), values.end());
  bias_tile_of_.emplace(hash, added);
  return added;
}

BlockLayout MaskedLayoutBuilder::TakeLayout() {
  BlockLayout taken = std::move(layout_);
  layout_ = {};
  layout_.kv_heads = taken.kv_heads;
  layout_.has_masks = true;
  bias_tile_of_.clear();
  if (taken.bias_tiles.empty()) {
    taken.full_bias_of.clear();
    taken.partial_bias_of.clear();
  }
  SPARSESERVE_DCHECK(taken.Validate().ok());
  return taken;
}

MaskedLayoutBuilder::Mask& MaskedLayoutBuilder::MaskOf(int32_t block) {
  SPARSESERVE_CHECK(block >= 0 &&
                    block < static_cast<int32_t>(has_key_.size()));
  if (masked_at_[block] < 0) {
    masked_at_[block] = static_cast<int32_t>(masked_.size());
    masked_.push_back({.block = block});
  }
  return masked_[masked_at_[block]].mask;
}

MaskedLayoutBuilder::BiasedBlock& MaskedLayoutBuilder::BiasOf(int32_t block) {
  SPARSESERVE_CHECK(block >= 0 &&
                    block < static_cast<int32_t>(has_key_.size()));
  if (biased_at_[block] < 0) {
    biased_at_[block] = static_cast<int32_t>(biased_.size());
    biased_.push_back({.block = block});
  }
  return biased_[biased_at_[block]];
}

void MaskedLayoutBuilder::Emit(int32_t block, Mask mask) {
  const uint64_t has_key = has_key_[block];
  uint64_t any = 0, every = kAllKeys;
  for (int32_t r = 0; r < rows_; ++r) {
    mask[r] &= has_key;
    any |= mask[r];
    every &= mask[r];
  }
  if (any == 0) return;
  int32_t bias = -1;
  if (biased_at_[block] >= 0) {
    const BiasedBlock& biased = biased_[biased_at_[block]];
    bias =
        biased.values.empty() ? biased.bias_tile : AddBiasTile(biased.values);
  }
  if (every == kAllKeys) {
    layout_.full_blocks.push_back(block);
    layout_.full_bias_of.push_back(bias);
    return;
  }
  std::fill(mask.begin() + rows_, mask.end(), 0);
  layout_.partial_blocks.push_back(block);
  layout_.partial_bias_of.push_back(bias);
  layout_.masks.insert(layout_.masks.end(), mask.begin(), mask.end());
}

}  // namespace sparseserve
