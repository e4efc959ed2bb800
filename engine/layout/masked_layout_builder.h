#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "engine/layout/block_layout.h"

namespace sparseserve {

// Builds a BlockLayout with masks, list by list, from intervals of key slots;
// the time is that of writing blocks and masks down. A key slot is where a key
// stands in the order of the sequence's pages. One thread.
class MaskedLayoutBuilder {
 public:
  // `has_key`, [key slots]: false where no key stands, which nobody sees.
  MaskedLayoutBuilder(int32_t heads, const std::vector<bool>& has_key);

  // Rows [begin, end) of a tile.
  struct Rows {
    int32_t begin = 0;
    int32_t end = 0;
  };
  // Key slots [begin, end).
  struct Keys {
    int64_t begin = 0;
    int64_t end = 0;
  };

  // Begins a list for tiles of so many rows, 1 ... 64.
  void BeginList(int32_t rows);
  // The rows see the keys. REQUIRES: the slots exist.
  void Show(const Rows& rows, const Keys& keys);
  // Each row sees as many keys as the row before it, one slot later: the first
  // sees `keys`. Those outside of `bounds` do not count.
  void ShowBand(const Rows& rows, const Keys& keys, const Keys& bounds);
  // Row r of the list sees those keys of a block whose bit is 1.
  void ShowBits(int32_t row, int32_t block, uint64_t bits);
  // Adds to the rows' scores with the keys, after their scaling.
  void AddBias(const Rows& rows, const Keys& keys, float bias);
  // The scores of a block of the list have a bias of AddBiasTile(), and no
  // other.
  void SetBias(int32_t block, int32_t bias_tile);
  // The list's id; -1 if no row sees a key, as if it had not been begun.
  int32_t EndList();

  // `lists`, [heads]: what each head visits. REQUIRES: none is -1.
  void AddTile(const QueryTile& tile, absl::Span<const int32_t> lists);

  // [64 rows, 64 keys]; those that are bitwise equal are kept once.
  int32_t AddBiasTile(absl::Span<const float> values);

  // Leaves the builder empty.
  BlockLayout TakeLayout();

 private:
  using Mask = std::array<uint64_t, 64>;  // word of every row
  struct MaskedBlock {
    int32_t block = 0;
    Mask mask = {};
  };
  struct BiasedBlock {
    int32_t block = 0;
    int32_t bias_tile = -1;
    std::vector<float> values;  // of AddBias
  };

  // Row r of the rows sees `keys` moved by r * step, within `bounds`.
  void ShowMoving(const Rows& rows, const Keys& keys, int64_t step,
                  const Keys& bounds);
  Mask& MaskOf(int32_t block);
  BiasedBlock& BiasOf(int32_t block);
  // Adds a block with what rows see of it.
  void Emit(int32_t block, Mask mask);

  BlockLayout layout_;
  std::vector<uint64_t> has_key_;  // [blocks]: bit k is slot k of the block
  int32_t rows_ = 0;               // of the list at hand
  std::vector<BlockRange> whole_;  // every row sees these
  std::vector<MaskedBlock> masked_;
  std::vector<BiasedBlock> biased_;
  // [blocks]: where in `masked_` and in `biased_` a block is; -1: nowhere.
  std::vector<int32_t> masked_at_;
  std::vector<int32_t> biased_at_;
  // The layout's bias tiles by a hash of their values.
  std::unordered_multimap<size_t, int32_t> bias_tile_of_;
};

}  // namespace sparseserve
