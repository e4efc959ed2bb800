#include "engine/layout/attention_passes.h"

#include <algorithm>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

template <typename... Parts>
absl::Status Broken(const Parts&... parts) {
  return absl::InternalError(StrCat("attention passes: ", parts...));
}

absl::Status ValidateSlots(const char* name, const std::vector<int32_t>& slots,
                           int32_t tokens) {
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] >= -1 && slots[slot] < tokens) continue;
    return Broken(name, " slot ", slot, " names token ", slots[slot], " of ",
                  tokens);
  }
  return absl::OkStatus();
}

absl::Status ValidateGroups(const TokenGroups& groups, int32_t tokens) {
  if (groups.begins.empty() || groups.begins.front() != 0 ||
      groups.begins.back() != static_cast<int64_t>(groups.tokens.size())) {
    return Broken("groups do not hold their ", groups.tokens.size(), " tokens");
  }
  for (int32_t group = 0; group < groups.size(); ++group) {
    if (groups.begins[group] < groups.begins[group + 1]) continue;
    return Broken("group ", group, " is empty");
  }
  return ValidateSlots("group", groups.tokens, tokens);
}

absl::Status ValidateTiles(const AttentionPass& pass) {
  const int64_t queries = static_cast<int64_t>(pass.query_tokens.size());
  for (const QueryTile& tile : pass.layout.tiles) {
    const int64_t end = int64_t{tile.first_row} + tile.rows;
    if (tile.slice != 0 || tile.first_row != tile.first_position ||
        end > queries) {
      return Broken("a tile of slice ", tile.slice, " has slots ",
                    tile.first_row, " ... ", end - 1, " of ", queries);
    }
  }
  const int64_t blocks =
      AlignedSlots(static_cast<int64_t>(pass.key_tokens.size())) / kPageTokens;
  for (const auto* listed :
       {&pass.layout.full_blocks, &pass.layout.partial_blocks}) {
    for (const int32_t block : *listed) {
      if (block >= blocks) return Broken("block ", block, " of ", blocks);
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<QueryTile> TilesOf(const std::vector<int32_t>& query_tokens) {
  std::vector<QueryTile> tiles;
  const auto slots = static_cast<int64_t>(query_tokens.size());
  for (int64_t first = 0; first < slots; first += kPageTokens) {
    const int64_t end = std::min<int64_t>(first + kPageTokens, slots);
    const bool has_query =
        std::any_of(query_tokens.begin() + first, query_tokens.begin() + end,
                    [](int32_t token) { return token >= 0; });
    if (!has_query) continue;
    tiles.push_back({.first_row = static_cast<int32_t>(first),
                     .rows = static_cast<int32_t>(end - first),
                     .first_position = static_cast<int32_t>(first)});
  }
  return tiles;
}

std::vector<bool> HasToken(const std::vector<int32_t>& slot_tokens) {
  std::vector<bool> has(slot_tokens.size());
  for (size_t slot = 0; slot < has.size(); ++slot) {
    has[slot] = slot_tokens[slot] >= 0;
  }
  return has;
}

int64_t AlignedSlots(int64_t slots) {
  return (slots + kPageTokens - 1) / kPageTokens * kPageTokens;
}

int64_t AttentionPasses::VisitedBlocks() const {
  int64_t blocks = 0;
  for (const AttentionPass& pass : passes) {
    for (const int32_t list : pass.layout.list_of) {
      blocks += pass.layout.ListBlocks(list);
    }
  }
  return blocks;
}

absl::Status AttentionPasses::Validate() const {
  // [heads, tokens]
  std::vector<bool> has_slot(int64_t{heads} * tokens);
  for (const AttentionPass& pass : passes) {
    RETURN_IF_ERROR(ValidateGroups(pass.groups, tokens));
    const int32_t names = pass.groups.size() > 0 ? pass.groups.size() : tokens;
    RETURN_IF_ERROR(ValidateSlots("query", pass.query_tokens, names));
    RETURN_IF_ERROR(ValidateSlots("key", pass.key_tokens, names));
    RETURN_IF_ERROR(pass.layout.Validate());
    RETURN_IF_ERROR(ValidateTiles(pass));
    if (!pass.layout.has_masks) return Broken("a layout without masks");
    if (pass.layout.kv_heads != static_cast<int32_t>(pass.heads.size())) {
      return Broken(pass.layout.kv_heads, " heads of a layout for ",
                    pass.heads.size());
    }
    for (size_t h = 0; h < pass.heads.size(); ++h) {
      const int32_t head = pass.heads[h];
      if (head < 0 || head >= heads || (h > 0 && head <= pass.heads[h - 1])) {
        return Broken("head ", head, " of ", heads, " does not ascend");
      }
      for (size_t slot = 0; slot < pass.query_tokens.size(); ++slot) {
        for (const int32_t token : pass.QueriesIn(static_cast<int64_t>(slot))) {
          auto has = has_slot[int64_t{head} * tokens + token];
          if (has && combiner == PassCombiner::kOnly) {
            return Broken("token ", token, " has two slots in head ", head);
          }
          has = true;
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
