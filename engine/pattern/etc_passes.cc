#include "engine/pattern/etc_passes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string_view>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

constexpr int64_t kBlock = kPageTokens;
// Of rows, heads and labels: a gigabyte.
constexpr int64_t kMaxLabelScores = int64_t{1} << 28;
constexpr int32_t kUnseen = -1;

int64_t LongOf(const EtcTokens& tokens) {
  return static_cast<int64_t>(tokens.segments.size());
}

// Of a pair of one sequence.
int32_t DistanceLabel(int64_t row, int64_t key, int32_t max_distance) {
  const auto clipped = static_cast<int32_t>(
      std::min<int64_t>(std::abs(key - row), max_distance));
  return key >= row ? clipped : max_distance + clipped;
}

// `rows_name`: "long " and the like, or nothing.
absl::Status CheckFinite(std::string_view rows_name, int32_t heads,
                         const EtcLabelScores& labels) {
  for (size_t i = 0; i < labels.scores.size(); ++i) {
    if (std::isfinite(labels.scores[i])) continue;
    const size_t pair = i / labels.labels;  // of a row and a head
    return absl::InvalidArgumentError(
        StrCat("etc: the score of label ", i % labels.labels, " in ", rows_name,
               "row ", pair / heads, ", head ", pair % heads, " is ",
               labels.scores[i], ", not finite"));
  }
  return absl::OkStatus();
}

absl::Status CheckScores(std::string_view rows_name, int64_t rows,
                         const EtcPattern& pattern, const EtcTokens& tokens,
                         const EtcLabelScores& labels) {
  if (rows == 0) return absl::OkStatus();
  const int64_t least = 2 * int64_t{pattern.max_distance} + 1;
  if (labels.labels < least || labels.labels > kMaxEtcLabels) {
    return absl::InvalidArgumentError(
        StrCat("etc: ", labels.labels, " labels of ", rows_name,
               " rows; allowed: ", least, " to ", kMaxEtcLabels));
  }
  const int64_t wanted = rows * tokens.heads * labels.labels;
  if (static_cast<int64_t>(labels.scores.size()) != wanted) {
    return absl::InvalidArgumentError(StrCat("etc: ", labels.scores.size(),
                                             " scores of labels for ",
                                             rows_name, " rows, not ", wanted));
  }
  return CheckFinite(StrCat(rows_name, " "), tokens.heads, labels);
}

absl::Status CheckLabels(std::string_view name, const EtcTokens& tokens,
                         const std::vector<int32_t>& labels, int32_t end) {
  const int64_t wanted = LongOf(tokens) * tokens.global_tokens;
  if (static_cast<int64_t>(labels.size()) != wanted) {
    return absl::InvalidArgumentError(
        StrCat("etc: ", labels.size(), " labels in ", name, ", not ", wanted));
  }
  for (const int32_t label : labels) {
    if (label >= kUnseen && label < end) continue;
    return absl::InvalidArgumentError(StrCat("etc: label ", label, " in ", name,
                                             "; allowed: -1 to ", end - 1));
  }
  return absl::OkStatus();
}

PassesSize SizeOf(const EtcPattern& pattern, const EtcTokens& tokens) {
  const int64_t long_blocks = BlocksOfAligned(LongOf(tokens));
  const int64_t global_blocks = BlocksOfAligned(tokens.global_tokens);
  const int64_t near =
      std::min(long_blocks, MostBlocksOf(kBlock + 2 * int64_t{pattern.radius}));
  const int64_t blocks =
      tokens.heads * (long_blocks * (near + 2 * global_blocks) +
                      global_blocks * global_blocks);
  return {.slots = tokens.heads * 2 * (LongOf(tokens) + tokens.global_tokens),
          .blocks = blocks,
          .bias_tiles = blocks};
}

absl::Status CheckTokens(const EtcPattern& pattern, const EtcTokens& tokens) {
  const int64_t global = tokens.global_tokens;
  if (global < 0 || global > kMaxEncoderTokens) {
    return absl::InvalidArgumentError(StrCat(
        "etc: ", global, " global tokens; allowed: 0 to ", kMaxEncoderTokens));
  }
  RETURN_IF_ERROR(
      CheckSequence(pattern, LongOf(tokens) + global, tokens.heads));
  RETURN_IF_ERROR(
      CheckScores("long", LongOf(tokens), pattern, tokens, tokens.long_labels));
  RETURN_IF_ERROR(
      CheckScores("global", global, pattern, tokens, tokens.global_labels));
  RETURN_IF_ERROR(CheckLabels("long_to_global", tokens, tokens.long_to_global,
                              tokens.long_labels.labels));
  RETURN_IF_ERROR(CheckLabels("global_to_long", tokens, tokens.global_to_long,
                              tokens.global_labels.labels));
  return CheckPassesSize("etc", SizeOf(pattern, tokens));
}

// One piece's pass.
class PiecePass {
 public:
  PiecePass(const EtcPattern& pattern, const EtcTokens& tokens, EtcPiece piece)
      : pattern_(pattern),
        tokens_(tokens),
        piece_(piece),
        scores_(HasLongRows() ? tokens.long_labels : tokens.global_labels) {
    pass_.heads.resize(tokens.heads);
    std::iota(pass_.heads.begin(), pass_.heads.end(), 0);
    pass_.projection = static_cast<int32_t>(piece);
    pass_.query_tokens = SlotsOf(HasLongRows());
    pass_.key_tokens = SlotsOf(HasLongKeys());
  }

  AttentionPass Build() {
    MaskedLayoutBuilder builder(tokens_.heads, HasToken(pass_.key_tokens));
    for (const QueryTile& tile : TilesOf(pass_.query_tokens)) {
      const std::vector<LabelTile> blocks = LabelsOf(tile);
      std::vector<int32_t> lists;
      lists.reserve(tokens_.heads);
      for (int32_t head = 0; head < tokens_.heads; ++head) {
        lists.push_back(AddList(tile, blocks, head, builder));
      }
      // Heads see the same, be it nothing.
      if (lists[0] >= 0) builder.AddTile(tile, lists);
    }
    pass_.layout = builder.TakeLayout();
    return std::move(pass_);
  }

 private:
  // The labels of a block's keys, [rows, keys]: kUnseen for keys that the row
  // does not see.
  struct LabelTile {
    int32_t block = 0;
    std::array<int16_t, kBlock * kBlock> labels;
  };

  bool HasLongRows() const {
    return piece_ == EtcPiece::kLongToLong || piece_ == EtcPiece::kLongToGlobal;
  }
  bool HasLongKeys() const {
    return piece_ == EtcPiece::kLongToLong || piece_ == EtcPiece::kGlobalToLong;
  }

  std::vector<int32_t> SlotsOf(bool is_long) const {
    std::vector<int32_t> slots(is_long ? LongOf(tokens_)
                                       : tokens_.global_tokens);
    std::iota(slots.begin(), slots.end(), is_long ? tokens_.global_tokens : 0);
    for (size_t slot = 0; is_long && slot < slots.size(); ++slot) {
      if (tokens_.segments[slot] < 0) slots[slot] = -1;
    }
    return slots;
  }

  // REQUIRES: neither is padding.
  int32_t LabelOf(int64_t row, int64_t key) const {
    switch (piece_) {
      case EtcPiece::kLongToLong:
        if (std::abs(row - key) > pattern_.radius ||
            tokens_.segments[row] != tokens_.segments[key]) {
          return kUnseen;
        }
        break;
      case EtcPiece::kLongToGlobal:
        return tokens_.long_to_global[row * tokens_.global_tokens + key];
      case EtcPiece::kGlobalToGlobal:
        break;
      case EtcPiece::kGlobalToLong:
        return tokens_.global_to_long[row * LongOf(tokens_) + key];
    }
    return DistanceLabel(row, key, pattern_.max_distance);
  }

  // Of the blocks in which some row of a tile may see a key.
  std::vector<LabelTile> LabelsOf(const QueryTile& tile) const {
    const auto keys = static_cast<int64_t>(pass_.key_tokens.size());
    int64_t first = 0, end = keys;
    if (piece_ == EtcPiece::kLongToLong) {
      first = std::max<int64_t>(0, tile.first_row - int64_t{pattern_.radius});
      end = std::min<int64_t>(
          keys, int64_t{tile.first_row} + tile.rows + pattern_.radius);
    }
    std::vector<LabelTile> tiles;
    for (int64_t block = first / kBlock; block * kBlock < end; ++block) {
      tiles.push_back({.block = static_cast<int32_t>(block)});
      std::array<int16_t, kBlock* kBlock>& labels = tiles.back().labels;
      labels.fill(kUnseen);
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t row = tile.first_row + r;
        if (pass_.query_tokens[row] < 0) continue;
        const int64_t stop = std::min(kBlock, keys - block * kBlock);
        for (int64_t k = 0; k < stop; ++k) {
          const int64_t key = block * kBlock + k;
          if (pass_.key_tokens[key] < 0) continue;
          labels[r * kBlock + k] = static_cast<int16_t>(LabelOf(row, key));
        }
      }
    }
    return tiles;
  }

  int32_t AddList(const QueryTile& tile, const std::vector<LabelTile>& blocks,
                  int32_t head, MaskedLayoutBuilder& builder) const {
    std::vector<float> values(kBlock * kBlock);
    builder.BeginList(tile.rows);
    for (const LabelTile& block : blocks) {
      bool is_seen = false;
      for (int32_t r = 0; r < tile.rows; ++r) {
        const float* scores = ScoresOf(int64_t{tile.first_row} + r, head);
        uint64_t bits = 0;
        for (int64_t k = 0; k < kBlock; ++k) {
          const int32_t label = block.labels[r * kBlock + k];
          values[r * kBlock + k] = label == kUnseen ? 0.0f : scores[label];
          if (label != kUnseen) bits |= uint64_t{1} << k;
        }
        builder.ShowBits(r, block.block, bits);
        is_seen = is_seen || bits != 0;
      }
      if (!is_seen) continue;
      std::fill(values.begin() + tile.rows * kBlock, values.end(), 0.0f);
      builder.SetBias(block.block, builder.AddBiasTile(values));
    }
    return builder.EndList();
  }

  const float* ScoresOf(int64_t row, int32_t head) const {
    return scores_.scores.data() +
           (row * tokens_.heads + head) * scores_.labels;
  }

  const EtcPattern& pattern_;
  const EtcTokens& tokens_;
  const EtcPiece piece_;
  const EtcLabelScores& scores_;
  AttentionPass pass_;
};

}  // namespace

absl::StatusOr<EtcLabelScores> ScoreEtcLabels(const ConstMatrixView& queries,
                                              const EtcLabelTable& table,
                                              int32_t heads, float scale) {
  const int64_t labels = table.keys.rows;
  if (labels < 1 || labels > kMaxEtcLabels) {
    return absl::InvalidArgumentError(
        StrCat("etc: ", labels, " labels; allowed: 1 to ", kMaxEtcLabels));
  }
  if (heads < 1 || heads > kMaxEncoderHeads) {
    return absl::InvalidArgumentError(
        StrCat("etc: ", heads, " heads; allowed: 1 to ", kMaxEncoderHeads));
  }
  if (queries.columns != table.keys.columns || queries.columns % heads != 0) {
    return absl::InvalidArgumentError(
        StrCat("etc: queries of ", queries.columns, " columns, labels of ",
               table.keys.columns, "; allowed: a multiple of heads, ", heads,
               ", and alike"));
  }
  if (static_cast<int64_t>(table.biases.size()) != labels * heads) {
    return absl::InvalidArgumentError(StrCat("etc: ", table.biases.size(),
                                             " biases of labels, not ",
                                             labels * heads));
  }
  if (queries.rows > kMaxLabelScores / (labels * heads)) {
    return absl::InvalidArgumentError(
        StrCat("etc: ", queries.rows, " rows of ", heads, " heads and ", labels,
               " labels; allowed: ", kMaxLabelScores, " of their product"));
  }
  const int64_t head_dim = queries.columns / heads;
  EtcLabelScores scored = {.labels = static_cast<int32_t>(labels)};
  scored.scores.reserve(queries.rows * heads * labels);
  for (int64_t row = 0; row < queries.rows; ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      const float* query = queries.row(row) + head * head_dim;
      for (int64_t label = 0; label < labels; ++label) {
        const float* key = table.keys.row(label) + head * head_dim;
        double sum = table.biases[label * heads + head];
        for (int64_t i = 0; i < head_dim; ++i) sum += double{query[i]} * key[i];
        scored.scores.push_back(static_cast<float>(sum * scale));
      }
    }
  }
  RETURN_IF_ERROR(CheckFinite("", heads, scored));
  return scored;
}

absl::StatusOr<AttentionPasses> EtcPasses(const EtcPattern& pattern,
                                          const EtcTokens& tokens) {
  RETURN_IF_ERROR(CheckTokens(pattern, tokens));
  AttentionPasses passes = {
      .tokens = static_cast<int32_t>(LongOf(tokens)) + tokens.global_tokens,
      .heads = tokens.heads,
      .combiner = PassCombiner::kMergeByLse};
  for (const EtcPiece piece :
       {EtcPiece::kLongToLong, EtcPiece::kLongToGlobal,
        EtcPiece::kGlobalToGlobal, EtcPiece::kGlobalToLong}) {
    AttentionPass pass = PiecePass(pattern, tokens, piece).Build();
    if (!pass.layout.tiles.empty()) passes.passes.push_back(std::move(pass));
  }
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
