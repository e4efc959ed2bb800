#include "tests/testing/pass_keys.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace sparseserve::testing {
namespace {

constexpr int64_t kBlock = 64;

struct ListedBlock {
  int64_t block = 0;
  const uint64_t* mask = nullptr;  // null: all
  const float* bias = nullptr;
};

std::vector<ListedBlock> BlocksOf(const BlockLayout& layout, int32_t list) {
  std::vector<ListedBlock> blocks;
  for (int64_t i = layout.full_offsets[list]; i < layout.full_offsets[list + 1];
       ++i) {
    blocks.push_back({layout.full_blocks[i], nullptr, layout.FullBias(i)});
  }
  for (int64_t i = layout.partial_offsets[list];
       i < layout.partial_offsets[list + 1]; ++i) {
    blocks.push_back({layout.partial_blocks[i],
                      layout.masks.data() + i * kBlock, layout.PartialBias(i)});
  }
  return blocks;
}

VisibleKeys KeysOfRow(const AttentionPass& pass,
                      const std::vector<ListedBlock>& blocks, int64_t row) {
  VisibleKeys seen;
  for (const ListedBlock& listed : blocks) {
    for (int64_t k = 0; k < kBlock; ++k) {
      if (listed.mask != nullptr && (listed.mask[row] >> k & 1) == 0) continue;
      const double bias =
          listed.bias == nullptr ? 0 : listed.bias[row * kBlock + k];
      seen.push_back(
          {.key = pass.key_tokens[listed.block * kBlock + k], .bias = bias});
    }
  }
  std::sort(seen.begin(), seen.end(),
            [](const auto& a, const auto& b) { return a.key < b.key; });
  VisibleKeys counted;
  for (const VisibleKey& key : seen) {
    if (!counted.empty() && counted.back().key == key.key &&
        counted.back().bias == key.bias) {
      ++counted.back().count;
    } else {
      counted.push_back(key);
    }
  }
  return counted;
}

}  // namespace

std::vector<SlotKeys> KeysOf(const AttentionPasses& passes, int32_t head) {
  std::vector<SlotKeys> all;
  for (const AttentionPass& pass : passes.passes) {
    const auto found = std::find(pass.heads.begin(), pass.heads.end(), head);
    if (found == pass.heads.end()) continue;
    const int64_t h = found - pass.heads.begin();
    const BlockLayout& layout = pass.layout;
    std::vector<SlotKeys> slots;
    for (const int32_t token : pass.query_tokens) slots.push_back({token, {}});
    for (size_t t = 0; t < layout.tiles.size(); ++t) {
      const QueryTile& tile = layout.tiles[t];
      const std::vector<ListedBlock> blocks =
          BlocksOf(layout, layout.list_of[t * layout.kv_heads + h]);
      for (int64_t r = 0; r < tile.rows; ++r) {
        slots[tile.first_row + r].keys = KeysOfRow(pass, blocks, r);
      }
    }
    for (const SlotKeys& slot : slots) {
      if (slot.token >= 0) all.push_back(slot);
    }
  }
  return all;
}

std::string Difference(const VisibleKeys& found, const VisibleKeys& wanted,
                       double tolerance) {
  if (found.size() != wanted.size()) {
    return absl::StrCat(found.size(), " keys, not ", wanted.size());
  }
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].key != wanted[i].key) {
      return absl::StrCat("key ", found[i].key, ", not ", wanted[i].key);
    }
    const double has = std::log(found[i].count) + found[i].bias;
    const double should = std::log(wanted[i].count) + wanted[i].bias;
    if (!(std::abs(has - should) <=
          tolerance * std::max(1.0, std::abs(should)))) {
      return absl::StrCat("key ", found[i].key, " has a bias of ", has,
                          ", not ", should);
    }
  }
  return "";
}

std::string DifferenceFromRule(
    const AttentionPasses& passes, int32_t head, const std::vector<bool>& real,
    const std::function<VisibleKeys(int64_t row)>& rule) {
  std::vector<bool> missing = real;
  for (const SlotKeys& slot : KeysOf(passes, head)) {
    if (!missing[slot.token]) {
      return absl::StrCat("a slot too many for row ", slot.token);
    }
    missing[slot.token] = false;
    const std::string difference = Difference(slot.keys, rule(slot.token));
    if (!difference.empty()) {
      return absl::StrCat("row ", slot.token, ": ", difference);
    }
  }
  for (size_t row = 0; row < missing.size(); ++row) {
    if (missing[row]) return absl::StrCat("no slot for row ", row);
  }
  return "";
}

}  // namespace sparseserve::testing
