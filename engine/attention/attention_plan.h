#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/layout/layout_builder.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/pattern/pattern_map.h"
#include "engine/pattern/pattern_spec.h"
#include "engine/step.h"

namespace sparseserve {

// One sequence's part of a step with the rule that its attention follows.
struct PlannedSlice {
  const StepSlice* slice = nullptr;
  PatternSpec pattern = {};
  const PatternMap* map = nullptr;  // if not null, in place of `pattern`
};

// What attention needs to know of a step, worked out once and used by every
// layer: the order of the batch's rows (all decode rows, then all prefill
// rows), where each row stands and stores its key and value, and the layouts
// that all slices' patterns became. Layers share one if the checkpoint gives
// them the same window, which narrows whatever a slice asks for, and every
// slice the same patterns, head by head; heads of a tile share a list if they
// have the same pattern. Keeps its memory between steps. One thread.
class AttentionPlan {
 public:
  struct Shape {
    int32_t layers = 0;
    int32_t heads = 0;  // of queries; 0 if no slice samples rows
    int32_t kv_heads = 0;
    // [layers]: latest keys that a query of the layer sees, 0 for all; empty if
    // no layer has a window.
    std::vector<int32_t> layer_windows;
    // [layers]: KV heads that the layer computes, ascending; empty if every
    // layer computes all. Layouts, selections and corrections are of these.
    std::vector<std::vector<int32_t>> layer_kv_heads;
  };

  explicit AttentionPlan(Shape shape);

  // Replaces the plan. REQUIRES: every slice has tokens, and pages for all its
  // positions; the slices' pages outlive the plan's use; maps are for the
  // plan's shape.
  void Build(absl::Span<const PlannedSlice> slices);

  RowGroups groups() const { return groups_; }
  int64_t rows() const { return groups_.decode_rows + groups_.prefill_rows; }
  // Row of the slice's first token; its others follow.
  int32_t first_row(int slice) const { return first_rows_[slice]; }

  // Each [rows].
  absl::Span<const TokenId> tokens() const { return tokens_; }
  absl::Span<const int32_t> positions() const { return positions_; }
  // page * kPageTokens + offset in the page.
  absl::Span<const int64_t> kv_slots() const { return kv_slots_; }

  // Page tables by slice, as the layout's tiles name them.
  absl::Span<const absl::Span<const PageId>> pages() const { return pages_; }
  // Where the layer selects, what its rules choose from.
  const BlockLayout& layout(int32_t layer) const {
    return layer_groups_[group_of_[layer]].builder.layout();
  }

  // Whether some head of the layer chooses its blocks by scores.
  bool Selects(int32_t layer) const;
  absl::Span<const SelectionRule> rules() const { return rules_; }
  // [tiles of the layer's layout, KV heads that it computes]
  absl::Span<const HeadSelection> selections(int32_t layer) const {
    return layer_groups_[group_of_[layer]].selections;
  }
  // SelectArgs::selected of the layer, for layers that select in their order.
  LayoutBuilder& selected(int32_t layer) {
    return layer_groups_[group_of_[layer]].selected;
  }
  // SelectArgs::kept of the layer. Until the next call.
  absl::Span<const absl::Span<const BlockRange>> FindKept(int32_t layer);
  // Counts the blocks that a layer's rules chose, and keeps what slices want
  // kept. Once for each layer that selects, with what Backend::Select made of
  // it.
  void TakeSelected(int32_t layer, const BlockLayout& selected);
  // SelectArgs::chosen of the layer, for devices that say at a step's end what
  // they chose.
  ChosenBlocks& chosen(int32_t layer) { return chosen_[layer]; }
  // Likewise, then, of all layers that select; also what rows skipped.
  void TakeChosen();

  // AttentionArgs::skipped of the layer, all 0; null if none of its rows may
  // leave blocks out. Until the next call for the layer.
  int64_t* CountSkipped(int32_t layer);
  // Takes what the layer's attention counted there out of blocks().
  void TakeSkipped(int32_t layer);

  // Rows whose recall somebody wants.
  struct Sample {
    int32_t row = 0;
    float* recall = nullptr;  // [layers, heads]
  };
  absl::Span<const Sample> samples() const { return samples_; }
  // Rows that correct others, in ascending order of rows.
  absl::Span<const RowCorrection> corrections(int32_t layer) const {
    return layer_groups_[group_of_[layer]].corrections;
  }
  // Whether some head of the layer is corrected.
  bool Corrects(int32_t layer) const;
  // Both of these once more, a tile each, which visits all that a dense slice
  // would.
  const BlockLayout& dense_rows(int32_t layer) const {
    return layer_groups_[group_of_[layer]].dense_rows.layout();
  }

  // Slices that have a profile.
  struct Profiled {
    int32_t slice = 0;
    int32_t first_row = 0;
    int32_t first_position = 0;
    int32_t rows = 0;
    bool is_dense = false;  // its pattern leaves nothing out
    AttentionProfile* profile = nullptr;
  };
  absl::Span<const Profiled> profiled() const { return profiled_; }
  // Latest keys that a query of the layer sees, 0 for all.
  int32_t window_tokens(int32_t layer) const {
    return kinds_[kind_of_[layer]].window_tokens;
  }

  // Over all layers and KV heads, layers that select or skip once they are
  // counted. A block that some of a tile's rows and heads left out counts for
  // the share of the others, which is rounded up for the slice.
  // Causality alone says what is allowed. A visit by a row that corrects others
  // counts 1 / kPageTokens more, rounded up for a tile, so `computed` exceeds
  // `allowed` where a pattern leaves out less than that.
  AttentionBlocks blocks(int slice) const;

 private:
  // In what layers of a checkpoint differ.
  struct LayerKind {
    int32_t window_tokens = 0;
    std::vector<int32_t> kv_heads;  // that it computes, ascending
    friend bool operator==(const LayerKind&, const LayerKind&) = default;
  };
  // What layers of one kind with the same patterns share.
  struct LayerGroup {
    int32_t window_tokens = 0;
    std::vector<int32_t> kv_heads;  // as in LayerKind
    std::vector<int32_t> layers;
    LayoutBuilder builder;
    std::vector<HeadSelection> selections;  // [tiles, kv_heads]
    LayoutBuilder selected;                 // of the layer at hand
    LayoutBuilder dense_rows;
    std::vector<RowCorrection> corrections;
  };
  // How a head of the tile at hand is corrected.
  struct HeadCorrection {
    int32_t every_rows = 0;  // 0: not at all
    int32_t first_layer = 0;
    int64_t first_position = 0;  // rows before it see every key
  };
  // A slice's patterns while its tiles are added.
  struct Patterns {
    absl::Span<const PatternSpec> specs;
    std::vector<PatternSelection> selections;  // [specs]
    std::vector<int32_t> rules;                // [specs]: -1 if none
    std::vector<int32_t> lists;                // [specs] of the tile at hand
    std::vector<HeadCorrection> corrections;   // likewise
  };

  LayerKind KindOf(int32_t layer) const;
  void GroupLayers(absl::Span<const PlannedSlice> slices);
  void AddRows(const StepSlice& slice);
  void AddTiles(int32_t index, const PlannedSlice& planned);
  void AddSamples(int32_t index, const StepSlice& slice);
  void SetPatterns(const PlannedSlice& planned);
  // Drops choices that no longer stand, and says where the slice's are kept if
  // its patterns, those that SetPatterns() saw last, use any again.
  void SetKeeper(int32_t index, const StepSlice& slice);
  // The tile's lists in one group of layers.
  void AddLists(const PlannedSlice& planned, const QueryTile& tile,
                LayerGroup& group, AttentionBlocks& blocks);
  // Where the choice of a layer's tile and head is kept, by their place in
  // selections(); null if it is not.
  KeptBlocks* KeeperOf(int32_t layer, size_t pair) const;
  // Whether a choice that is to be kept was made in this step.
  bool IsNew(const KeptBlocks& keeper, int32_t layer, size_t pair) const;
  // As KeptBlocks counts heads.
  int64_t HeadOf(int32_t layer, size_t pair) const {
    const std::vector<int32_t>& kv_heads =
        layer_groups_[group_of_[layer]].kv_heads;
    return int64_t{layer} * shape_.kv_heads + kv_heads[pair % kv_heads.size()];
  }
  // Of a layer's tile and head, by their place in selections().
  const QueryTile& TileOf(int32_t layer, size_t pair) const {
    return layout(layer).tiles[pair / layout(layer).kv_heads];
  }
  // Which rule a head with a pattern follows.
  HeadSelection SelectionOfTile(const StepSlice& slice, int32_t spec,
                                const QueryTile& tile) const;
  // How a head with a pattern is corrected that selects like this, or from
  // which positions alone hide what its layer shows, or not.
  HeadCorrection CorrectionOfTile(Phase phase, int32_t spec,
                                  const QueryTile& tile,
                                  const HeadSelection& selection,
                                  bool positions_hide) const;
  // The rows that head_corrections_ ask for.
  void AddCorrections(const QueryTile& tile, LayerGroup& group,
                      AttentionBlocks& blocks);
  // Adds a row to those that are attended densely; returns its list.
  int32_t AddDenseRow(const QueryTile& row, LayerGroup& group) const;

  Shape shape_;
  std::vector<LayerKind> kinds_;  // distinct ones
  std::vector<int32_t> kind_of_;  // [layers]: index into kinds_
  // Of this step those that have layers; others are kept for their memory.
  std::vector<LayerGroup> layer_groups_;
  std::vector<int32_t> group_of_;  // [layers]: index into layer_groups_
  RowGroups groups_;
  std::vector<int32_t> first_rows_;
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_;
  std::vector<int64_t> kv_slots_;
  std::vector<absl::Span<const PageId>> pages_;
  std::vector<AttentionBlocks> blocks_;
  std::vector<double> skipped_blocks_;         // [slices]: of those computed
  std::vector<std::vector<int64_t>> skipped_;  // [layers]: CountSkipped()
  std::vector<Sample> samples_;
  std::vector<Profiled> profiled_;
  std::vector<SelectionRule> rules_;
  std::vector<KeptBlocks*> keepers_;  // [slices]: null if nothing is kept
  std::vector<absl::Span<const BlockRange>> kept_;  // of FindKept()
  std::vector<ChosenBlocks> chosen_;                // [layers]
  // [kv_heads]: 0, for slices whose heads have one pattern.
  std::vector<int32_t> same_pattern_;
  Patterns patterns_;
  // Of the tile at hand, [KV heads that its layers compute].
  std::vector<HeadCorrection> head_corrections_;
};

}  // namespace sparseserve
