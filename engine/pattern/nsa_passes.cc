#include "engine/pattern/nsa_passes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {
namespace {

absl::Status Within(std::string_view parameter, int64_t value, int64_t least,
                    int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("nsa: ", parameter, " is ", value,
                                           "; allowed: ", least, " to ", most));
}

absl::Status MultipleOf(int32_t stride, std::string_view parameter,
                        int32_t value) {
  if (value >= 1 && value <= kMaxEncoderTokens && value % stride == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat(
      "nsa: ", parameter, " is ", value, "; allowed: a multiple of stride, ",
      stride, ", up to ", kMaxEncoderTokens));
}

absl::Status CheckTokens(const NsaPattern& pattern, const NsaTokens& tokens) {
  RETURN_IF_ERROR(
      CheckNsaCounts(pattern, tokens.tokens, tokens.heads, tokens.kv_heads));
  const int64_t lists = int64_t{tokens.tokens} * tokens.kv_heads;
  if (static_cast<int64_t>(tokens.blocks.size()) != lists) {
    return absl::InvalidArgumentError(
        StrCat("nsa: ", tokens.blocks.size(), " lists of blocks, not ", lists));
  }
  for (int64_t i = 0; i < lists; ++i) {
    const int32_t own =
        static_cast<int32_t>(i / tokens.kv_heads) / pattern.block_tokens;
    const std::vector<int32_t>& blocks = tokens.blocks[i];
    for (size_t b = 0; b < blocks.size(); ++b) {
      const int32_t least = b == 0 ? 0 : blocks[b - 1] + 1;
      RETURN_IF_ERROR(Within("block of a row", blocks[b], least, own));
    }
    if (blocks.empty() || blocks.back() != own) {
      return absl::InvalidArgumentError(StrCat(
          "nsa: token ", i / tokens.kv_heads, " lacks its own block, ", own));
    }
  }
  return absl::OkStatus();
}

// A pass over the queries of a sequence in their order, its tiles still to be
// added.
class CausalPass {
 public:
  CausalPass(const NsaTokens& tokens, int32_t keys)
      : tokens_(tokens), builder_(tokens.heads, std::vector<bool>(keys, true)) {
    pass_.heads.resize(tokens.heads);
    std::iota(pass_.heads.begin(), pass_.heads.end(), 0);
    pass_.query_tokens.resize(tokens.tokens);
    std::iota(pass_.query_tokens.begin(), pass_.query_tokens.end(), 0);
    pass_.key_tokens.resize(keys);
    std::iota(pass_.key_tokens.begin(), pass_.key_tokens.end(), 0);
  }

  // `show(tile, KV head, builder)` says what the tile's rows see, in lists that
  // the query heads of a KV head share.
  template <typename Show>
  AttentionPasses Build(const Show& show) {
    for (const QueryTile& tile : TilesOf(pass_.query_tokens)) {
      std::vector<int32_t> lists;
      for (int32_t head = 0; head < tokens_.kv_heads; ++head) {
        builder_.BeginList(tile.rows);
        show(tile, head, builder_);
        const int32_t list = builder_.EndList();
        lists.insert(lists.end(), tokens_.heads / tokens_.kv_heads, list);
      }
      // What one KV head sees something of, all do.
      if (lists[0] >= 0) builder_.AddTile(tile, lists);
    }
    pass_.layout = builder_.TakeLayout();
    AttentionPasses passes = {.tokens = tokens_.tokens, .heads = tokens_.heads};
    passes.passes.push_back(std::move(pass_));
    SPARSESERVE_DCHECK(passes.Validate().ok());
    return passes;
  }

 private:
  const NsaTokens& tokens_;
  AttentionPass pass_;
  MaskedLayoutBuilder builder_;
};

}  // namespace

absl::Status CheckNsaPattern(const NsaPattern& pattern) {
  RETURN_IF_ERROR(Within("stride", pattern.stride, 1, kMaxEncoderTokens));
  RETURN_IF_ERROR(MultipleOf(pattern.stride, "compressed_tokens",
                             pattern.compressed_tokens));
  RETURN_IF_ERROR(
      MultipleOf(pattern.stride, "block_tokens", pattern.block_tokens));
  RETURN_IF_ERROR(
      Within("selected_blocks", pattern.selected_blocks, 3, kMaxEncoderTokens));
  return Within("window_tokens", pattern.window_tokens, 1, kMaxEncoderTokens);
}

absl::Status CheckNsaCounts(const NsaPattern& pattern, int64_t tokens,
                            int64_t heads, int64_t kv_heads) {
  RETURN_IF_ERROR(CheckNsaPattern(pattern));
  RETURN_IF_ERROR(Within("tokens", tokens, 1, kMaxEncoderTokens));
  RETURN_IF_ERROR(Within("heads", heads, 1, kMaxEncoderHeads));
  RETURN_IF_ERROR(Within("kv_heads", kv_heads, 1, heads));
  if (heads % kv_heads == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("nsa: kv_heads is ", kv_heads,
                                           "; allowed: divisors of ", heads,
                                           " heads"));
}

int32_t NsaCompressedKeys(const NsaPattern& pattern, int64_t tokens) {
  if (tokens < pattern.compressed_tokens) return 0;
  return static_cast<int32_t>((tokens - pattern.compressed_tokens) /
                              pattern.stride) +
         1;
}

std::vector<int32_t> SelectNsaBlocks(const NsaPattern& pattern, int32_t row,
                                     absl::Span<const double> weights) {
  const int32_t own = row / pattern.block_tokens;
  const int32_t keys = NsaCompressedKeys(pattern, int64_t{row} + 1);
  std::vector<double> scores(own + 1);
  for (size_t i = 0; i < weights.size(); ++i) {
    const int32_t first = static_cast<int32_t>(i % keys) * pattern.stride;
    for (int32_t at = first; at < first + pattern.compressed_tokens;
         at += pattern.stride) {
      scores[at / pattern.block_tokens] += weights[i];
    }
  }
  // A NaN has no place in an order.
  for (double& score : scores) {
    if (std::isnan(score)) score = std::numeric_limits<double>::infinity();
  }
  std::vector<int32_t> order(own + 1);
  std::iota(order.begin(), order.end(), 0);
  const auto is_before = [&](int32_t a, int32_t b) {
    const auto is_forced = [own](int32_t block) {
      return block == 0 || block >= own - 1;
    };
    if (is_forced(a) != is_forced(b)) return is_forced(a);
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  };
  std::sort(order.begin(), order.end(), is_before);
  order.resize(std::min<size_t>(order.size(), pattern.selected_blocks));
  std::sort(order.begin(), order.end());
  return order;
}

absl::StatusOr<NsaPasses> MakeNsaPasses(const NsaPattern& pattern,
                                        const NsaTokens& tokens) {
  RETURN_IF_ERROR(CheckTokens(pattern, tokens));
  NsaPasses passes;
  const int32_t compressed = NsaCompressedKeys(pattern, tokens.tokens);
  passes.compressed =
      CausalPass(tokens, compressed)
          .Build([&](const QueryTile& tile, int32_t, MaskedLayoutBuilder& to) {
            for (int32_t r = 0; r < tile.rows; ++r) {
              const int32_t seen =
                  NsaCompressedKeys(pattern, int64_t{tile.first_row} + r + 1);
              if (seen > 0) to.Show({r, r + 1}, {0, seen});
            }
          });
  passes.selected =
      CausalPass(tokens, tokens.tokens)
          .Build([&](const QueryTile& tile, int32_t head,
                     MaskedLayoutBuilder& to) {
            for (int32_t r = 0; r < tile.rows; ++r) {
              const int64_t row = int64_t{tile.first_row} + r;
              for (const int64_t block :
                   tokens.blocks[row * tokens.kv_heads + head]) {
                to.Show(
                    {r, r + 1},
                    {block * pattern.block_tokens,
                     std::min((block + 1) * pattern.block_tokens, row + 1)});
              }
            }
          });
  passes.window =
      CausalPass(tokens, tokens.tokens)
          .Build([&](const QueryTile& tile, int32_t, MaskedLayoutBuilder& to) {
            const int64_t first = tile.first_row;
            to.ShowBand({0, tile.rows},
                        {first + 1 - pattern.window_tokens, first + 1},
                        {0, tokens.tokens});
          });
  return passes;
}

}  // namespace sparseserve
