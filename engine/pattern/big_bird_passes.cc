#include "engine/pattern/big_bird_passes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "absl/types/span.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

// What is drawn for rows of blocks, [rows, random_blocks].
using Drawn = absl::Span<const int32_t>;

class BigBirdRows {
 public:
  BigBirdRows(const BigBirdPattern& pattern, const BigBirdTokens& tokens)
      : pattern_(pattern),
        tokens_(tokens),
        blocks_(static_cast<int64_t>(tokens.is_real.size()) /
                pattern.block_tokens) {}

  absl::Status Check() const {
    const auto count = static_cast<int64_t>(tokens_.is_real.size());
    const int32_t block = pattern_.block_tokens;
    if (count % block != 0 || count / block < 3) {
      return absl::InvalidArgumentError(
          StrCat("big_bird: a sequence of ", count,
                 " tokens; allowed: a multiple of block_tokens, ", block,
                 ", 3 or more of them"));
    }
    const int64_t wanted =
        tokens_.heads * (blocks_ - 2) * pattern_.random_blocks;
    if (static_cast<int64_t>(tokens_.drawn.size()) != wanted) {
      return absl::InvalidArgumentError(StrCat(
          "big_bird: ", tokens_.drawn.size(), " drawn blocks; ", tokens_.heads,
          " heads of ", blocks_, " blocks need ", wanted));
    }
    for (const int32_t drawn : tokens_.drawn) {
      if (drawn >= 0 && drawn < blocks_) continue;
      return absl::InvalidArgumentError(StrCat(
          "big_bird: drawn block ", drawn, "; allowed: 0 to ", blocks_ - 1));
    }
    return absl::OkStatus();
  }

  // As if all heads drew otherwise.
  PassesSize Size() const {
    const auto count = static_cast<int64_t>(tokens_.is_real.size());
    const int64_t all = BlocksOfAligned(count);
    const int64_t block = pattern_.block_tokens;
    const bool is_aligned = block % kPageTokens == 0;
    int64_t of_block = MostBlocksOf(block);
    int64_t rows_of_tile = std::min(blocks_, (kPageTokens - 1) / block + 2);
    if (is_aligned) {
      of_block = block / kPageTokens;
      rows_of_tile = 1;
    } else if (kPageTokens % block == 0) {
      of_block = 1;
      rows_of_tile = std::min(blocks_, kPageTokens / block);
    }
    const auto of_tile = [&](int64_t seen_of_row) {
      return std::min(all, rows_of_tile * seen_of_row * of_block);
    };
    const int64_t random = pattern_.random_blocks;
    const int64_t heads = tokens_.heads;
    const int64_t extra = BlocksOfAligned(pattern_.extra_tokens);
    PassesSize size = {.slots = heads * (count + pattern_.extra_tokens),
                       // Tiles of the first and of the last row list all.
                       .blocks = heads * (all * (of_tile(5 + random) + extra) +
                                          std::min(all, 2 * of_block) * all) +
                                 extra * (all + extra),
                       .bias_tiles = heads * all * of_tile(random)};
    // A bias is then one number for a whole tile.
    if (is_aligned) size.bias_tiles = std::min(size.bias_tiles, random + 1);
    return size;
  }

  // The tile's list of every head.
  std::vector<int32_t> AddLists(const QueryTile& tile,
                                MaskedLayoutBuilder& builder) const {
    const int64_t begin = tile.first_row / pattern_.block_tokens;
    // The last tile may reach to the border behind which extra tokens stand.
    const int64_t end = std::min<int64_t>(
        blocks_, (tile.first_row + tile.rows - 1) / pattern_.block_tokens + 1);
    std::map<std::vector<int32_t>, int32_t> known;
    std::vector<int32_t> lists;
    for (int32_t head = 0; head < tokens_.heads; ++head) {
      std::vector<int32_t> drawn;
      for (int64_t row = begin; row < end; ++row) {
        const Drawn of_row = DrawnBy(head, row);
        drawn.insert(drawn.end(), of_row.begin(), of_row.end());
      }
      const auto [list, is_new] = known.try_emplace(std::move(drawn), -1);
      if (is_new) {
        builder.BeginList(tile.rows);
        for (int64_t row = begin; row < end; ++row) {
          ShowRow(tile, row, DrawnBy(head, row), builder);
        }
        const int64_t extra = AlignedSlots(blocks_ * pattern_.block_tokens);
        builder.Show({0, tile.rows}, {extra, extra + pattern_.extra_tokens});
        list->second = builder.EndList();
      }
      lists.push_back(list->second);
    }
    return lists;
  }

 private:
  // Empty for the first and the last row.
  Drawn DrawnBy(int32_t head, int64_t row) const {
    if (row == 0 || row == blocks_ - 1) return {};
    const int64_t first =
        (head * (blocks_ - 2) + row - 1) * pattern_.random_blocks;
    return Drawn(tokens_.drawn).subspan(first, pattern_.random_blocks);
  }

  // Shows its blocks to those rows of the tile that are of a row of blocks.
  void ShowRow(const QueryTile& tile, int64_t row, Drawn drawn,
               MaskedLayoutBuilder& builder) const {
    const int64_t block = pattern_.block_tokens;
    const MaskedLayoutBuilder::Rows rows = {
        static_cast<int32_t>(
            std::max<int64_t>(row * block - tile.first_row, 0)),
        static_cast<int32_t>(
            std::min<int64_t>((row + 1) * block - tile.first_row, tile.rows))};
    if (row == 0 || row == blocks_ - 1) {
      builder.Show(rows, {0, blocks_ * block});
      return;
    }
    // Blocks of the window may be global ones; they still count once.
    std::map<int64_t, int32_t> times = {{0, 1}, {blocks_ - 1, 1}};
    for (int64_t near = row - 1; near <= row + 1; ++near) times[near] = 1;
    for (const int32_t b : drawn) ++times[b];
    for (const auto& [b, count] : times) {
      const MaskedLayoutBuilder::Keys keys = {b * block, (b + 1) * block};
      builder.Show(rows, keys);
      if (count > 1) {
        builder.AddBias(rows, keys, std::log(static_cast<float>(count)));
      }
    }
  }

  const BigBirdPattern& pattern_;
  const BigBirdTokens& tokens_;
  const int64_t blocks_;
};

}  // namespace

absl::StatusOr<AttentionPasses> BigBirdPasses(const BigBirdPattern& pattern,
                                              const BigBirdTokens& tokens) {
  const auto count = static_cast<int32_t>(tokens.is_real.size());
  const int32_t extra = pattern.extra_tokens;
  RETURN_IF_ERROR(CheckSequence(
      pattern, static_cast<int64_t>(tokens.is_real.size()) + extra,
      tokens.heads));
  const BigBirdRows rows(pattern, tokens);
  RETURN_IF_ERROR(rows.Check());
  RETURN_IF_ERROR(CheckPassesSize("big_bird", rows.Size()));
  AttentionPass pass;
  pass.heads.resize(tokens.heads);
  std::iota(pass.heads.begin(), pass.heads.end(), 0);
  for (int32_t token = 0; token < count; ++token) {
    pass.key_tokens.push_back(tokens.is_real[token] ? extra + token : -1);
  }
  const int64_t first_extra = AlignedSlots(count);
  if (extra > 0) pass.key_tokens.resize(first_extra, -1);
  for (int32_t token = 0; token < extra; ++token) {
    pass.key_tokens.push_back(token);
  }
  pass.query_tokens = pass.key_tokens;
  MaskedLayoutBuilder builder(tokens.heads, HasToken(pass.key_tokens));
  for (const QueryTile& tile : TilesOf(pass.query_tokens)) {
    if (tile.first_row < first_extra) {
      // Every row of blocks sees its own, where the tile has a token.
      builder.AddTile(tile, rows.AddLists(tile, builder));
      continue;
    }
    builder.BeginList(tile.rows);
    builder.Show({0, tile.rows},
                 {0, static_cast<int64_t>(pass.key_tokens.size())});
    builder.AddTile(tile,
                    std::vector<int32_t>(tokens.heads, builder.EndList()));
  }
  pass.layout = builder.TakeLayout();
  AttentionPasses passes = {.tokens = extra + count, .heads = tokens.heads};
  passes.passes.push_back(std::move(pass));
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
