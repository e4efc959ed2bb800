#include "engine/attention/attention_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <variant>

#include "engine/base/check.h"
#include "engine/pattern/static_keys.h"

namespace sparseserve {
namespace {

// -1 if the slice does not say where its prompt ends.
int32_t LastPromptBlock(const StepSlice& slice) {
  if (!slice.prompt.empty()) {
    return static_cast<int32_t>((slice.prompt.size() - 1) / kPageTokens);
  }
  if (!slice.wants_token) return -1;
  const int64_t end =
      int64_t{slice.first_position} + static_cast<int64_t>(slice.tokens.size());
  return static_cast<int32_t>((end - 1) / kPageTokens);
}

// Whether some row may see less than a layer's window shows; 0: every key.
bool HidesWithin(int32_t window_tokens, const KeyPredicate& keys) {
  if (keys.IsCausality()) return false;
  if (window_tokens == 0) return true;
  const auto* rule = std::get_if<SinkWindowKeys>(&keys.rule);
  const bool is_window = std::holds_alternative<AllKeys>(keys.rule);
  if (rule == nullptr && !is_window) return true;
  return (is_window ? keys.window_tokens : rule->window_tokens) < window_tokens;
}

// Whether a row corrects others in some layer of the group.
bool HasCorrectionBy(int32_t row, absl::Span<const RowCorrection> ascending) {
  const auto found =
      std::lower_bound(ascending.begin(), ascending.end(), row,
                       [](const RowCorrection& correction, int32_t wanted) {
                         return correction.row < wanted;
                       });
  return found != ascending.end() && found->row == row;
}

}  // namespace

AttentionPlan::AttentionPlan(Shape shape) : shape_(std::move(shape)) {
  SPARSESERVE_CHECK(shape_.layer_windows.empty() ||
                    static_cast<int32_t>(shape_.layer_windows.size()) ==
                        shape_.layers);
  SPARSESERVE_CHECK(shape_.layer_kv_heads.empty() ||
                    static_cast<int32_t>(shape_.layer_kv_heads.size()) ==
                        shape_.layers);
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    LayerKind kind = KindOf(layer);
    auto known = std::find(kinds_.begin(), kinds_.end(), kind);
    if (known == kinds_.end()) known = kinds_.insert(known, std::move(kind));
    kind_of_.push_back(static_cast<int32_t>(known - kinds_.begin()));
  }
  same_pattern_.assign(shape_.kv_heads, 0);
  chosen_.resize(shape_.layers);
}

AttentionPlan::LayerKind AttentionPlan::KindOf(int32_t layer) const {
  LayerKind kind;
  if (!shape_.layer_windows.empty()) {
    kind.window_tokens = shape_.layer_windows[layer];
  }
  if (shape_.layer_kv_heads.empty()) {
    kind.kv_heads.resize(shape_.kv_heads);
    std::iota(kind.kv_heads.begin(), kind.kv_heads.end(), 0);
  } else {
    kind.kv_heads = shape_.layer_kv_heads[layer];
  }
  return kind;
}

void AttentionPlan::Build(absl::Span<const PlannedSlice> slices) {
  groups_ = RowGroups();
  first_rows_.assign(slices.size(), 0);
  tokens_.clear();
  positions_.clear();
  kv_slots_.clear();
  pages_.assign(slices.size(), {});
  blocks_.assign(slices.size(), {});
  skipped_blocks_.assign(slices.size(), 0);
  skipped_.resize(shape_.layers);
  rules_.clear();
  keepers_.assign(slices.size(), nullptr);
  samples_.clear();
  profiled_.clear();
  GroupLayers(slices);

  for (const Phase phase : {Phase::kDecode, Phase::kPrefill}) {
    int64_t& group_rows =
        phase == Phase::kDecode ? groups_.decode_rows : groups_.prefill_rows;
    for (int32_t i = 0; i < static_cast<int32_t>(slices.size()); ++i) {
      const StepSlice& slice = *slices[i].slice;
      if (slice.phase != phase) continue;
      first_rows_[i] = static_cast<int32_t>(tokens_.size());
      pages_[i] = slice.pages;
      group_rows += static_cast<int64_t>(slice.tokens.size());
      AddRows(slice);
      AddTiles(i, slices[i]);
      SetKeeper(i, slice);
      AddSamples(i, slice);
      if (slice.profile == nullptr) continue;
      profiled_.push_back(
          {.slice = i,
           .first_row = first_rows_[i],
           .first_position = slice.first_position,
           .rows = static_cast<int32_t>(slice.tokens.size()),
           .is_dense = slices[i].map == nullptr &&
                       std::holds_alternative<DensePattern>(slices[i].pattern),
           .profile = slice.profile});
    }
  }
  for (LayerGroup& group : layer_groups_) {
    SPARSESERVE_DCHECK(group.builder.layout().Validate().ok());
    SPARSESERVE_DCHECK(group.dense_rows.layout().Validate().ok());
    if (std::any_of(group.layers.begin(), group.layers.end(),
                    [this](int32_t layer) { return Selects(layer); })) {
      group.selected.CopyFrom(group.builder.layout());
    }
  }
}

void AttentionPlan::GroupLayers(absl::Span<const PlannedSlice> slices) {
  std::vector<int32_t> groups = kind_of_;
  int32_t count = static_cast<int32_t>(kinds_.size());
  std::vector<const PatternMap*> maps;
  for (const PlannedSlice& planned : slices) {
    const PatternMap* map = planned.map;
    if (map == nullptr ||
        std::find(maps.begin(), maps.end(), map) != maps.end()) {
      continue;
    }
    SPARSESERVE_CHECK(map->shape().layers == shape_.layers &&
                      map->shape().kv_heads == shape_.kv_heads);
    maps.push_back(map);
    // Of each group those stay together whose rows of the map are equal.
    std::vector<std::pair<int32_t, int32_t>> parts;
    for (int32_t layer = 0; layer < shape_.layers; ++layer) {
      const std::pair<int32_t, int32_t> part = {groups[layer],
                                                map->FirstEqual(layer)};
      const auto known = std::find(parts.begin(), parts.end(), part);
      groups[layer] = static_cast<int32_t>(known - parts.begin());
      if (known == parts.end()) parts.push_back(part);
    }
    count = static_cast<int32_t>(parts.size());
  }
  while (static_cast<int32_t>(layer_groups_.size()) < count) {
    layer_groups_.push_back({.builder = LayoutBuilder(shape_.kv_heads),
                             .selected = LayoutBuilder(shape_.kv_heads),
                             .dense_rows = LayoutBuilder(shape_.kv_heads)});
  }
  for (LayerGroup& group : layer_groups_) {
    group.layers.clear();
    group.builder.Clear();
    group.selections.clear();
    group.dense_rows.Clear();
    group.corrections.clear();
  }
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    LayerGroup& group = layer_groups_[groups[layer]];
    group.layers.push_back(layer);
    const LayerKind& kind = kinds_[kind_of_[layer]];
    group.window_tokens = kind.window_tokens;
    if (group.kv_heads == kind.kv_heads) continue;
    group.kv_heads = kind.kv_heads;
    const auto kv_heads = static_cast<int32_t>(kind.kv_heads.size());
    if (kv_heads == 0) continue;  // nothing is added to it
    group.builder = LayoutBuilder(kv_heads);
    group.selected = LayoutBuilder(kv_heads);
    group.dense_rows = LayoutBuilder(kv_heads);
  }
  group_of_ = std::move(groups);
}

void AttentionPlan::AddRows(const StepSlice& slice) {
  int32_t position = slice.first_position;
  for (const TokenId token : slice.tokens) {
    const PageId page = slice.pages[position / kPageTokens];
    tokens_.push_back(token);
    positions_.push_back(position);
    kv_slots_.push_back(int64_t{page} * kPageTokens + position % kPageTokens);
    ++position;
  }
}

void AttentionPlan::AddTiles(int32_t index, const PlannedSlice& planned) {
  constexpr int32_t kBlockTokens = kPageTokens;
  const int32_t begin = planned.slice->first_position;
  const int32_t end =
      begin + static_cast<int32_t>(planned.slice->tokens.size());
  SetPatterns(planned);
  for (int32_t position = begin; position < end;) {
    const int32_t block = position / kBlockTokens;
    QueryTile tile;
    tile.slice = index;
    tile.first_row = first_rows_[index] + (position - begin);
    tile.rows = std::min(end, (block + 1) * kBlockTokens) - position;
    tile.first_position = position;
    for (LayerGroup& group : layer_groups_) {
      if (!group.layers.empty() && !group.kv_heads.empty()) {
        AddLists(planned, tile, group, blocks_[index]);
      }
    }
    position += tile.rows;
  }
}

void AttentionPlan::AddSamples(int32_t index, const StepSlice& slice) {
  const int64_t width = int64_t{shape_.layers} * shape_.heads;
  float* recall = slice.recall.data();
  for (const int32_t row : slice.recall_rows) {
    QueryTile tile;
    tile.slice = index;
    tile.first_row = first_rows_[index] + row;
    tile.rows = 1;
    tile.first_position = slice.first_position + row;
    samples_.push_back({tile.first_row, recall});
    recall += width;
    for (LayerGroup& group : layer_groups_) {
      if (group.layers.empty() || group.kv_heads.empty() ||
          HasCorrectionBy(tile.first_row, group.corrections)) {
        continue;
      }
      AddDenseRow(tile, group);
    }
  }
}

int32_t AttentionPlan::AddDenseRow(const QueryTile& row,
                                   LayerGroup& group) const {
  group.dense_rows.AddTile(row);
  const int32_t list =
      group.dense_rows.AddListOf({.window_tokens = group.window_tokens});
  for (size_t head = 0; head < group.kv_heads.size(); ++head) {
    group.dense_rows.Assign(static_cast<int32_t>(head), list);
  }
  return list;
}

void AttentionPlan::SetPatterns(const PlannedSlice& planned) {
  patterns_.specs = planned.map == nullptr
                        ? absl::MakeConstSpan(&planned.pattern, 1)
                        : planned.map->patterns();
  patterns_.selections.clear();
  patterns_.rules.clear();
  for (const PatternSpec& spec : patterns_.specs) {
    patterns_.selections.push_back(SelectionOf(spec));
    const auto& rule = patterns_.selections.back().rule;
    patterns_.rules.push_back(
        rule.has_value() ? static_cast<int32_t>(rules_.size()) : -1);
    if (rule.has_value()) rules_.push_back(*rule);
  }
}

void AttentionPlan::SetKeeper(int32_t index, const StepSlice& slice) {
  if (slice.kept_blocks == nullptr) return;
  if (slice.phase == Phase::kPrefill) {
    slice.kept_blocks->Forget();
    return;
  }
  slice.kept_blocks->ForgetFrom(slice.first_position);
  const bool reuses =
      std::any_of(patterns_.selections.begin(), patterns_.selections.end(),
                  [](const PatternSelection& selection) {
                    return selection.reuse_steps > 1;
                  });
  if (reuses && slice.tokens.size() == 1) keepers_[index] = slice.kept_blocks;
}

void AttentionPlan::AddLists(const PlannedSlice& planned, const QueryTile& tile,
                             LayerGroup& group, AttentionBlocks& blocks) {
  const absl::Span<const int32_t> spec_of =
      planned.map == nullptr ? absl::MakeConstSpan(same_pattern_)
                             : planned.map->Row(group.layers[0]);
  const TilePlace place = {
      .phase = planned.slice->phase,
      .query_block = QueryBlock(tile, kPageTokens),
      .last_prompt_block = LastPromptBlock(*planned.slice)};
  const int64_t layers = static_cast<int64_t>(group.layers.size());
  patterns_.lists.assign(patterns_.specs.size(), -1);
  patterns_.corrections.assign(patterns_.specs.size(), {});
  head_corrections_.assign(group.kv_heads.size(), {});
  group.builder.AddTile(tile);
  for (int32_t head = 0; head < static_cast<int32_t>(group.kv_heads.size());
       ++head) {
    const int32_t spec = spec_of[group.kv_heads[head]];
    HeadSelection selection;
    if (group.window_tokens == 0) {
      selection = SelectionOfTile(*planned.slice, spec, tile);
    }
    int32_t& list = patterns_.lists[spec];
    if (list < 0) {
      const KeyPredicate keys = StaticKeys(patterns_.specs[spec], place);
      list = group.builder.AddListOf(keys.Within(group.window_tokens));
      patterns_.corrections[spec] =
          CorrectionOfTile(place.phase, spec, tile, selection,
                           HidesWithin(group.window_tokens, keys));
    }
    group.builder.Assign(head, list);
    const float skip_below = SkipBelowOf(patterns_.specs[spec]);
    if (skip_below > kNoSkip) group.builder.AllowSkip(head, skip_below);
    head_corrections_[head] = patterns_.corrections[spec];
    group.selections.push_back(selection);
    const int64_t selecting =
        std::count_if(group.layers.begin(), group.layers.end(),
                      [&](int32_t layer) { return selection.IsUsedIn(layer); });
    blocks.computed += group.builder.ListBlocks(list) * (layers - selecting);
    blocks.allowed += (place.query_block + 1) * layers;
  }
  AddCorrections(tile, group, blocks);
}

HeadSelection AttentionPlan::SelectionOfTile(const StepSlice& slice,
                                             int32_t spec,
                                             const QueryTile& tile) const {
  const PatternSelection& selection = patterns_.selections[spec];
  if (patterns_.rules[spec] < 0 ||
      slice.phase != selection.phase.value_or(slice.phase)) {
    return {};
  }
  // Rules keep the first block and the tile's own, so up to two there is
  // nothing to choose.
  if (QueryBlock(tile, kPageTokens) < 2) return {};
  const bool ends_prompt =
      slice.phase == Phase::kPrefill &&
      QueryBlock(tile, kPageTokens) == LastPromptBlock(slice);
  if (ends_prompt && selection.is_last_block_dense) return {};
  return {.rule = patterns_.rules[spec],
          .first_layer = selection.first_layer,
          .reuse_steps = selection.reuse_steps};
}

AttentionPlan::HeadCorrection AttentionPlan::CorrectionOfTile(
    Phase phase, int32_t spec, const QueryTile& tile,
    const HeadSelection& selection, bool positions_hide) const {
  // Where nothing is left out there is nothing to correct.
  const bool leaves_out =
      patterns_.rules[spec] >= 0 ? selection.rule >= 0 : positions_hide;
  if (phase != Phase::kPrefill || !leaves_out) return {};
  const PatternCorrection correction = CorrectionOf(patterns_.specs[spec]);
  const int32_t last_position = tile.first_position + tile.rows - 1;
  if (last_position < correction.first_position) return {};
  return {correction.every_rows, selection.first_layer,
          correction.first_position};
}

void AttentionPlan::AddCorrections(const QueryTile& tile, LayerGroup& group,
                                   AttentionBlocks& blocks) {
  int32_t first_layer = shape_.layers;
  for (const HeadCorrection& correction : head_corrections_) {
    if (correction.every_rows == 0) continue;
    first_layer = std::min(first_layer, correction.first_layer);
  }
  const int64_t layers =
      std::count_if(group.layers.begin(), group.layers.end(),
                    [=](int32_t layer) { return layer >= first_layer; });
  if (layers == 0) return;
  int64_t visits = 0;  // of a block, by a row
  for (int32_t r = 0; r < tile.rows; ++r) {
    const QueryTile row = {.slice = tile.slice,
                           .first_row = tile.first_row + r,
                           .rows = 1,
                           .first_position = tile.first_position + r};
    int32_t list = -1;
    for (int32_t head = 0; head < static_cast<int32_t>(group.kv_heads.size());
         ++head) {
      const HeadCorrection& correction = head_corrections_[head];
      if (correction.every_rows == 0 ||
          row.first_position < correction.first_position) {
        continue;
      }
      // The first row stands in for one that an earlier step had.
      const int32_t behind = row.first_position % correction.every_rows;
      if (r > 0 && behind > 0) continue;
      if (list < 0) list = AddDenseRow(row, group);
      group.corrections.push_back(
          {.row = row.first_row,
           .rows = std::min(correction.every_rows - behind, tile.rows - r),
           .kv_head = head,
           .first_layer = correction.first_layer});
    }
    if (list >= 0) visits += group.dense_rows.ListBlocks(list);
  }
  visits *= layers * static_cast<int64_t>(group.kv_heads.size());
  blocks.computed += (visits + kPageTokens - 1) / kPageTokens;
}

bool AttentionPlan::Corrects(int32_t layer) const {
  const absl::Span<const RowCorrection> corrections = this->corrections(layer);
  return std::any_of(corrections.begin(), corrections.end(),
                     [layer](const RowCorrection& correction) {
                       return correction.IsUsedIn(layer);
                     });
}

bool AttentionPlan::Selects(int32_t layer) const {
  const absl::Span<const HeadSelection> selections = this->selections(layer);
  return std::any_of(selections.begin(), selections.end(),
                     [layer](const HeadSelection& selection) {
                       return selection.IsUsedIn(layer);
                     });
}

KeptBlocks* AttentionPlan::KeeperOf(int32_t layer, size_t pair) const {
  const HeadSelection& selection = selections(layer)[pair];
  if (!selection.IsUsedIn(layer) || selection.reuse_steps == 1) return nullptr;
  return keepers_[TileOf(layer, pair).slice];
}

bool AttentionPlan::IsNew(const KeptBlocks& keeper, int32_t layer,
                          size_t pair) const {
  const HeadSelection& selection = selections(layer)[pair];
  const QueryTile& tile = TileOf(layer, pair);
  return keeper
      .Find(HeadOf(layer, pair), tile.first_position, selection.reuse_steps,
            rules_[selection.rule])
      .empty();
}

absl::Span<const absl::Span<const BlockRange>> AttentionPlan::FindKept(
    int32_t layer) {
  kept_.clear();
  if (std::all_of(keepers_.begin(), keepers_.end(),
                  [](const KeptBlocks* keeper) { return keeper == nullptr; })) {
    return kept_;
  }
  const absl::Span<const HeadSelection> selections = this->selections(layer);
  kept_.resize(selections.size());
  for (size_t i = 0; i < selections.size(); ++i) {
    const KeptBlocks* keeper = KeeperOf(layer, i);
    if (keeper == nullptr) continue;
    kept_[i] =
        keeper->Find(HeadOf(layer, i), TileOf(layer, i).first_position,
                     selections[i].reuse_steps, rules_[selections[i].rule]);
  }
  return kept_;
}

void AttentionPlan::TakeSelected(int32_t layer, const BlockLayout& selected) {
  SPARSESERVE_DCHECK(selected.Validate().ok());
  const absl::Span<const HeadSelection> selections = this->selections(layer);
  SPARSESERVE_CHECK(selected.list_of.size() == selections.size());
  for (size_t i = 0; i < selections.size(); ++i) {
    if (!selections[i].IsUsedIn(layer)) continue;
    const QueryTile& tile = TileOf(layer, i);
    blocks_[tile.slice].computed += selected.ListBlocks(selected.list_of[i]);
    KeptBlocks* const keeper = KeeperOf(layer, i);
    if (keeper == nullptr || !IsNew(*keeper, layer, i)) continue;
    keeper->Keep(HeadOf(layer, i), tile.first_position,
                 rules_[selections[i].rule], selected, selected.list_of[i]);
  }
}

void AttentionPlan::TakeChosen() {
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    TakeSkipped(layer);
    if (!Selects(layer)) continue;
    const ChosenBlocks& chosen = chosen_[layer];
    const absl::Span<const HeadSelection> selections = this->selections(layer);
    SPARSESERVE_CHECK(chosen.counts.size() == selections.size());
    for (size_t i = 0; i < selections.size(); ++i) {
      if (!selections[i].IsUsedIn(layer)) continue;
      const QueryTile& tile = TileOf(layer, i);
      blocks_[tile.slice].computed += chosen.counts[i];
      KeptBlocks* const keeper = KeeperOf(layer, i);
      if (keeper == nullptr || !IsNew(*keeper, layer, i)) continue;
      keeper->Keep(HeadOf(layer, i), tile.first_position,
                   rules_[selections[i].rule], chosen.lists[i]);
    }
  }
}

int64_t* AttentionPlan::CountSkipped(int32_t layer) {
  const BlockLayout& layout = this->layout(layer);
  if (layout.skip_below.empty()) return nullptr;
  skipped_[layer].assign(layout.list_of.size(), 0);
  return skipped_[layer].data();
}

void AttentionPlan::TakeSkipped(int32_t layer) {
  const BlockLayout& layout = this->layout(layer);
  if (layout.skip_below.empty()) return;
  const std::vector<int64_t>& skipped = skipped_[layer];
  SPARSESERVE_CHECK(skipped.size() == layout.list_of.size());
  SPARSESERVE_CHECK(shape_.heads >= shape_.kv_heads);
  const int32_t group = shape_.heads / shape_.kv_heads;
  for (size_t i = 0; i < skipped.size(); ++i) {
    const QueryTile& tile = TileOf(layer, i);
    skipped_blocks_[tile.slice] +=
        static_cast<double>(skipped[i]) / (tile.rows * group);
  }
}

AttentionBlocks AttentionPlan::blocks(int slice) const {
  // Shares of blocks that add up to a whole one may miss it by rounding.
  constexpr double kRounding = 1e-6;
  AttentionBlocks blocks = blocks_[slice];
  blocks.computed -=
      static_cast<int64_t>(std::floor(skipped_blocks_[slice] + kRounding));
  return blocks;
}

}  // namespace sparseserve
