#include "engine/pattern/longformer_passes.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

using Keys = MaskedLayoutBuilder::Keys;
using Rows = MaskedLayoutBuilder::Rows;

absl::Status CheckTokens(const LongformerPattern& pattern,
                         const LongformerTokens& tokens) {
  const auto count = static_cast<int64_t>(tokens.is_real.size());
  RETURN_IF_ERROR(CheckSequence(pattern, count, tokens.heads));
  if (!pattern.dilations.empty() &&
      static_cast<int32_t>(pattern.dilations.size()) != tokens.heads) {
    return absl::InvalidArgumentError(
        StrCat("longformer: ", pattern.dilations.size(), " dilations for ",
               tokens.heads, " heads"));
  }
  int64_t before = -1;
  for (const int32_t token : tokens.global) {
    if (token <= before || token >= count) {
      return absl::InvalidArgumentError(
          StrCat("longformer: global token ", token, "; allowed: ", before + 1,
                 " to ", count - 1, ", ascending"));
    }
    if (!tokens.is_real[token]) {
      return absl::InvalidArgumentError(
          StrCat("longformer: global token ", token, " is padding"));
    }
    before = token;
  }
  return absl::OkStatus();
}

PassesSize SizeOf(const LongformerPattern& pattern,
                  const LongformerTokens& tokens, int64_t dilations) {
  const auto count = static_cast<int64_t>(tokens.is_real.size());
  const auto global = static_cast<int64_t>(tokens.global.size());
  const int64_t windows = kPageTokens + 2 * int64_t{pattern.one_sided_window};
  const int64_t of_tile =
      std::min(BlocksOfAligned(count), MostBlocksOf(windows)) +
      BlocksOfAligned(global);
  return {.slots = tokens.heads * (count + global),
          .blocks = dilations * BlocksOfAligned(count) * of_tile +
                    BlocksOfAligned(global) * BlocksOfAligned(count)};
}

// One pass of tokens that are not global, in classes of one remainder each.
class LocalPass {
 public:
  LocalPass(const LongformerPattern& pattern, const LongformerTokens& tokens,
            const std::vector<int32_t>& heads, int32_t dilation)
      : pattern_(pattern), tokens_(tokens) {
    pass_.heads = heads;
    const auto count = static_cast<int32_t>(tokens.is_real.size());
    for (int32_t first = 0; first < std::min(dilation, count); ++first) {
      class_begins_.push_back(pass_.query_tokens.size());
      for (int32_t token = first; token < count; token += dilation) {
        pass_.query_tokens.push_back(tokens.is_real[token] ? token : -1);
      }
    }
    class_begins_.push_back(pass_.query_tokens.size());
    for (const int32_t token : tokens.global) {
      pass_.query_tokens[SlotOf(token, dilation)] = -1;
    }
    pass_.key_tokens = pass_.query_tokens;
    first_global_ = AlignedSlots(count);
    pass_.key_tokens.resize(first_global_, -1);
    pass_.key_tokens.insert(pass_.key_tokens.end(), tokens.global.begin(),
                            tokens.global.end());
  }

  AttentionPass Build() {
    MaskedLayoutBuilder builder(static_cast<int32_t>(pass_.heads.size()),
                                HasToken(pass_.key_tokens));
    for (const QueryTile& tile : TilesOf(pass_.query_tokens)) {
      builder.BeginList(tile.rows);
      ShowWindows(tile, builder);
      ShowGlobal(tile, builder);
      const int32_t list = builder.EndList();
      if (list < 0) continue;
      builder.AddTile(tile, std::vector<int32_t>(pass_.heads.size(), list));
    }
    pass_.layout = builder.TakeLayout();
    return std::move(pass_);
  }

 private:
  int64_t SlotOf(int32_t token, int32_t dilation) const {
    return class_begins_[token % dilation] + token / dilation;
  }

  void ShowWindows(const QueryTile& tile, MaskedLayoutBuilder& builder) const {
    const int64_t end = int64_t{tile.first_row} + tile.rows;
    auto next = std::upper_bound(class_begins_.begin(), class_begins_.end(),
                                 tile.first_row);
    for (int64_t slot = tile.first_row; slot < end;) {
      const int64_t stop = std::min(end, *next);
      const int64_t window = pattern_.one_sided_window;
      builder.ShowBand(
          {static_cast<int32_t>(slot - tile.first_row),
           static_cast<int32_t>(stop - tile.first_row)},
          {slot - window, slot + (pattern_.is_causal ? 0 : window) + 1},
          {next[-1], *next});
      slot = stop;
      ++next;
    }
  }

  void ShowGlobal(const QueryTile& tile, MaskedLayoutBuilder& builder) const {
    const std::vector<int32_t>& global = tokens_.global;
    if (!pattern_.is_causal) {
      builder.Show(
          {0, tile.rows},
          {first_global_, first_global_ + static_cast<int64_t>(global.size())});
      return;
    }
    for (int32_t r = 0; r < tile.rows; ++r) {
      const int32_t token = pass_.query_tokens[tile.first_row + r];
      const int64_t seen =
          std::upper_bound(global.begin(), global.end(), token) -
          global.begin();
      builder.Show({r, r + 1}, {first_global_, first_global_ + seen});
    }
  }

  const LongformerPattern& pattern_;
  const LongformerTokens& tokens_;
  AttentionPass pass_;
  std::vector<int64_t> class_begins_;  // and where the last ends
  int64_t first_global_ = 0;           // key slot
};

AttentionPass GlobalPass(const LongformerPattern& pattern,
                         const LongformerTokens& tokens) {
  const auto count = static_cast<int32_t>(tokens.is_real.size());
  AttentionPass pass;
  pass.projection = 1;
  pass.heads.resize(tokens.heads);
  std::iota(pass.heads.begin(), pass.heads.end(), 0);
  pass.query_tokens = tokens.global;
  for (int32_t token = 0; token < count; ++token) {
    pass.key_tokens.push_back(tokens.is_real[token] ? token : -1);
  }
  MaskedLayoutBuilder builder(tokens.heads, tokens.is_real);
  for (const QueryTile& tile : TilesOf(pass.query_tokens)) {
    builder.BeginList(tile.rows);
    if (pattern.is_causal) {
      for (int32_t r = 0; r < tile.rows; ++r) {
        builder.Show({r, r + 1},
                     {0, tokens.global[tile.first_row + r] + int64_t{1}});
      }
    } else {
      builder.Show({0, tile.rows}, {0, count});
    }
    // Every global token sees itself.
    builder.AddTile(tile,
                    std::vector<int32_t>(tokens.heads, builder.EndList()));
  }
  pass.layout = builder.TakeLayout();
  return pass;
}

}  // namespace

absl::StatusOr<AttentionPasses> LongformerPasses(
    const LongformerPattern& pattern, const LongformerTokens& tokens) {
  RETURN_IF_ERROR(CheckTokens(pattern, tokens));
  std::map<int32_t, std::vector<int32_t>> heads_of;
  for (int32_t head = 0; head < tokens.heads; ++head) {
    const int32_t dilation =
        pattern.dilations.empty() ? 1 : pattern.dilations[head];
    heads_of[dilation].push_back(head);
  }
  RETURN_IF_ERROR(CheckPassesSize(
      "longformer",
      SizeOf(pattern, tokens, static_cast<int64_t>(heads_of.size()))));
  AttentionPasses passes = {
      .tokens = static_cast<int32_t>(tokens.is_real.size()),
      .heads = tokens.heads};
  for (const auto& [dilation, heads] : heads_of) {
    passes.passes.push_back(
        LocalPass(pattern, tokens, heads, dilation).Build());
  }
  if (!tokens.global.empty()) {
    passes.passes.push_back(GlobalPass(pattern, tokens));
  }
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
