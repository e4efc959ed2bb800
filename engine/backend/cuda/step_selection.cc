#include "engine/backend/cuda/step_selection.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <initializer_list>
#include <utility>
#include <variant>

#include "engine/backend/cuda/cuda_error.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve::cuda {
namespace {

constexpr int64_t kLeastScores = int64_t{1} << 20;
constexpr int64_t kLeastWorkspaceBytes = int64_t{256} << 20;
// LastRowsSelection's; others are BlockSelection's, or for output rows.
constexpr SelectionRuleKinds kLastRowRules =
    SelectionRuleKinds::Of<VerticalSlashRule, FlexPrefillRule>();

absl::Status Failed(const LaunchStatus& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::InternalError(status.message());
}

// Up to powers of two, so that sequences that grow keep their graphs.
int64_t RoundedUp(int64_t size, int64_t least) {
  return std::max(
      least, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(size))));
}

uint64_t Bits(const void* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

// Blocks that a rule visits of a sequence that has more.
int32_t VisitedBy(const PageBoundRule& rule, int32_t blocks) {
  const int64_t forced = std::max<int64_t>(rule.first_blocks, 1) +
                         std::max<int64_t>(rule.last_blocks, 1);
  return static_cast<int32_t>(
      std::min<int64_t>(std::max<int64_t>(rule.blocks, forced), blocks));
}

int32_t BlocksOf(absl::Span<const BlockRange> ranges) {
  int32_t blocks = 0;
  for (const BlockRange& range : ranges) blocks += range.end - range.begin;
  return blocks;
}

std::vector<BlockRange> RangesOf(const int32_t* blocks, int32_t count) {
  std::vector<BlockRange> ranges;
  for (int32_t i = 0; i < count; ++i) {
    if (!ranges.empty() && ranges.back().end == blocks[i]) {
      ++ranges.back().end;
    } else {
      ranges.push_back({blocks[i], blocks[i] + 1});
    }
  }
  return ranges;
}

// Index in `rules`, to which the rule is added if it is new.
int32_t IndexOf(const SelectionRule& rule, std::vector<SelectionRule>& rules) {
  const auto found = std::find(rules.begin(), rules.end(), rule);
  const auto index = static_cast<int32_t>(found - rules.begin());
  if (found == rules.end()) rules.push_back(rule);
  return index;
}

// For signatures of launches.
uint64_t BitsOf(const SelectionRule& rule) {
  uint64_t bits = rule.index();
  if (const auto* antidiagonal = std::get_if<AntidiagonalRule>(&rule)) {
    bits = bits * 64 + antidiagonal->stride;
    bits = bits << 32 | std::bit_cast<uint32_t>(antidiagonal->mass);
  } else if (const auto* similarity = std::get_if<SimilarityRule>(&rule)) {
    bits = bits << 32 | std::bit_cast<uint32_t>(similarity->similarity);
    bits = bits * 31 + std::bit_cast<uint32_t>(similarity->mass);
  } else if (const auto* last = std::get_if<VerticalSlashRule>(&rule)) {
    bits = bits * 64 + static_cast<uint64_t>(last->rows);
    bits = bits << 32 | static_cast<uint32_t>(last->columns);
    bits = bits * 31 + static_cast<uint32_t>(last->diagonals);
  } else if (const auto* flex = std::get_if<FlexPrefillRule>(&rule)) {
    bits = bits << 32 | std::bit_cast<uint32_t>(flex->mass);
    bits = bits * 31 + std::bit_cast<uint32_t>(flex->divergence);
    bits = bits * 31 + static_cast<uint32_t>(flex->least_blocks);
  }
  return bits;
}

template <typename T>
absl::Status CopyOnDevice(const T* from, int64_t count, T* to,
                          uint64_t operation, StepLaunches& launches) {
  if (count == 0) return absl::OkStatus();
  return launches.Add(
      {operation, Bits(from), static_cast<uint64_t>(count), Bits(to)},
      [=](CUstream_st* stream) {
        return StatusOf(cudaMemcpyAsync(to, from, count * sizeof(T),
                                        cudaMemcpyDeviceToDevice, stream),
                        "copying lists of blocks");
      });
}

// Queues a selection's Run().
template <typename Selection>
absl::Status LaunchChoice(uint64_t operation, const Selection* selection,
                          BlockSelectionArgs args,
                          std::vector<SelectionRule> rules,
                          StepLaunches& launches) {
  const ChosenLists& chosen = args.chosen;
  uint64_t mixed = 0;
  for (const SelectionRule& rule : rules) mixed = mixed * 31 + BitsOf(rule);
  return launches.Add(
      {operation,
       Bits(selection),
       mixed,
       static_cast<uint64_t>(args.tiles),
       Bits(args.tile_fields),
       static_cast<uint64_t>(args.slices),
       Bits(args.first_tiles),
       static_cast<uint64_t>(args.most_blocks),
       Bits(args.queries),
       Bits(args.kv.keys),
       Bits(args.kv.page_tables),
       static_cast<uint64_t>(args.kv.page_table_stride),
       Bits(args.rule_of),
       Bits(args.base_list_of),
       Bits(args.row_lists.block_counts),
       Bits(args.row_lists.block_offsets),
       Bits(args.row_lists.blocks),
       static_cast<uint64_t>(chosen.base_lists),
       static_cast<uint64_t>(chosen.base_full_blocks),
       static_cast<uint64_t>(chosen.base_partial_blocks),
       Bits(chosen.list_of),
       Bits(chosen.full_offsets),
       Bits(chosen.full_blocks),
       Bits(chosen.partial_offsets),
       Bits(chosen.partial_blocks),
       Bits(chosen.partial_masks),
       Bits(chosen.order),
       Bits(chosen.counts)},
      [selection, args, rules = std::move(rules)](CUstream_st* stream) mutable {
        args.rules = rules.data();
        args.rule_count = static_cast<int32_t>(rules.size());
        return selection->Run(args, stream);
      });
}

}  // namespace

SelectionRuleKinds StepSelection::RulesFor(int64_t context_tokens,
                                           int64_t pairs) {
  constexpr int64_t kMostTokens =
      int64_t{BlockSelection::kMostBlocks} * kPageTokens;
  static_assert(BlockSelection::kMostBlocks == DecodeSelection::kMostBlocks);
  constexpr int64_t kMostPairs = 65535;  // DecodeSelection's
  if (context_tokens > kMostTokens) return {};
  return pairs > kMostPairs
             ? SelectionRuleKinds::Of<AntidiagonalRule, SimilarityRule,
                                      VerticalSlashRule, FlexPrefillRule>()
             : SelectionRuleKinds::Of<AntidiagonalRule, SimilarityRule,
                                      VerticalSlashRule, FlexPrefillRule,
                                      PageBoundRule>();
}

absl::StatusOr<DeviceLayout> StepSelection::Run(const SelectArgs& args,
                                                const DeviceLayout& base) {
  const size_t pairs = args.base->list_of.size();
  SPARSESERVE_CHECK(args.selections.size() == pairs);
  SPARSESERVE_CHECK(args.kept.empty() || args.kept.size() == pairs);
  if (args.chosen != nullptr) {
    args.chosen->counts.assign(pairs, 0);
    args.chosen->lists.assign(args.kept.empty() ? 0 : pairs, {});
  }
  Group& group = groups_[args.base];
  DeviceLayout result = base;
  RETURN_IF_ERROR(ChooseForRows(args, base, group, result));
  RETURN_IF_ERROR(ChooseForTiles(args, base, group, result));
  RETURN_IF_ERROR(step_.arrays.status());
  RETURN_IF_ERROR(step_.room.status());
  RETURN_IF_ERROR(step_.results.status());
  return result;
}

StepSelection::RowChoice StepSelection::FindRowChoice(
    const SelectArgs& args, const DeviceLayout& base) {
  const DeviceLayout::OutputRows& rows = base.output_rows;
  const int32_t kv_heads = args.kv.kv_heads;
  RowChoice choice;
  choice.keeps = !args.kept.empty();
  rules_.assign(size_t{4} * rows.rows * kv_heads, 0);
  for (int32_t pair = 0; pair < rows.rows * kv_heads; ++pair) {
    int32_t* const rule = &rules_[size_t{4} * pair];
    rule[0] = kNoRule;
    const int32_t row = pair / kv_heads;
    choice.most_blocks = std::max(choice.most_blocks, rows.blocks[row]);
    if (rows.tiles[row] < 0) continue;
    const int32_t of_layout = rows.tiles[row] * kv_heads + pair % kv_heads;
    const HeadSelection& selection = args.selections[of_layout];
    if (!selection.IsUsedIn(args.layer)) continue;
    const auto* bounds =
        std::get_if<PageBoundRule>(&args.rules[selection.rule]);
    SPARSESERVE_CHECK(bounds != nullptr);  // the plan's check lets no other in
    choice.is_used = true;
    choice.room_blocks =
        std::max(choice.room_blocks, VisitedBy(*bounds, rows.blocks[row]));
    const absl::Span<const BlockRange> kept =
        args.kept.empty() ? absl::Span<const BlockRange>()
                          : args.kept[of_layout];
    if (!kept.empty()) {
      choice.kept.push_back(pair);
      if (args.chosen != nullptr) {
        args.chosen->counts[of_layout] = BlocksOf(kept);
      }
      continue;
    }
    rule[0] = bounds->blocks;
    rule[1] = bounds->first_blocks;
    rule[2] = bounds->last_blocks;
    choice.pairs.push_back({of_layout, pair, rows.blocks[row],
                            choice.keeps && selection.reuse_steps > 1});
  }
  choice.most_blocks = static_cast<int32_t>(RoundedUp(choice.most_blocks, 64));
  choice.room_blocks = static_cast<int32_t>(RoundedUp(choice.room_blocks, 16));
  return choice;
}

absl::Status StepSelection::ChooseForRows(const SelectArgs& args,
                                          const DeviceLayout& base,
                                          Group& group, DeviceLayout& result) {
  RowChoice choice = FindRowChoice(args, base);
  if (!choice.is_used) return absl::OkStatus();
  DecodeSelectionArgs& rows = group.row_args;
  // Layers that choose alike share their arrays, unless lists are kept.
  const bool is_placed =
      !choice.keeps && rows.rules != nullptr && rules_ == group.row_rules;
  if (!is_placed) {
    rows = {};
    rows.sequences = base.output_rows.rows;
    rows.heads = args.heads;
    rows.query_stride = args.queries.columns;
    rows.lengths = base.output_rows.lengths;
    rows.most_blocks = choice.most_blocks;
    rows.choice.room_blocks = choice.room_blocks;
    PlaceRows(args, base, choice, group);
  }
  rows.queries = args.queries.data;
  rows.kv = Paged(args.kv, base.decode.page_tables, base.page_table_stride);
  rows.key_bounds = args.kv.key_bounds;
  PlaceRowLists(args, std::move(choice), group);
  if (result.decode.sequences > 0) result.decode.lists = group.row_lists;
  return LaunchRows(group);
}

void StepSelection::PlaceRows(const SelectArgs& args, const DeviceLayout& base,
                              const RowChoice& choice, Group& group) {
  const int32_t kv_heads = args.kv.kv_heads;
  counts_ = base.decode.counts;
  offsets_ = base.decode.offsets;
  const int32_t* blocks = base.decode.lists.blocks;
  if (choice.keeps) {
    blocks_ = base.decode.blocks;
    const size_t first = blocks_.size();
    blocks_.resize(first + counts_.size() * choice.room_blocks);
    for (const int32_t pair : choice.kept) {
      const int32_t row = pair / kv_heads;
      const absl::Span<const BlockRange> kept =
          args.kept[base.output_rows.tiles[row] * kv_heads + pair % kv_heads];
      const int32_t count = BlocksOf(kept);
      const bool is_all = count == base.output_rows.blocks[row];
      counts_[pair] = is_all ? kAllBlocks : count;
      if (is_all) continue;
      SPARSESERVE_CHECK(count <= choice.room_blocks);
      size_t to = first + size_t(pair) * choice.room_blocks;
      offsets_[pair] = static_cast<int64_t>(to);
      for (const BlockRange& range : kept) {
        for (int32_t b = range.begin; b < range.end; ++b) blocks_[to++] = b;
      }
    }
    blocks = step_.arrays.Copy(absl::MakeConstSpan(blocks_));
  }
  group.row_rules = rules_;
  group.row_args.rules = step_.arrays.Copy(absl::MakeConstSpan(rules_));
  // These are the device's own, where kernels then write.
  DecodeChoice& own = group.row_args.choice;
  own.block_counts =
      const_cast<int32_t*>(step_.arrays.Copy(absl::MakeConstSpan(counts_)));
  own.block_offsets =
      const_cast<int64_t*>(step_.arrays.Copy(absl::MakeConstSpan(offsets_)));
  own.blocks = const_cast<int32_t*>(blocks);
  group.row_lists = {own.block_counts, own.block_offsets, blocks};
  group.row_room = nullptr;
}

void StepSelection::PlaceRowLists(const SelectArgs& args, RowChoice choice,
                                  Group& group) {
  DecodeChoice& own = group.row_args.choice;
  own.chosen_counts = nullptr;
  group.chooses_rows = !choice.pairs.empty();
  if (!group.chooses_rows) return;
  const int64_t pairs = int64_t{group.row_args.sequences} * args.kv.kv_heads;
  const int64_t room = own.room_blocks;
  const bool tells_lists = choice.keeps && args.chosen != nullptr;
  if (args.chosen != nullptr) {
    // Lengths, and behind them lists.
    own.chosen_counts = step_.results.Add<int32_t>(
        pairs * (tells_lists ? 1 + room : 1),
        [chosen = args.chosen, of_pairs = std::move(choice.pairs), pairs,
         room](const int32_t* found) {
          for (const ChosenPair& of : of_pairs) {
            const int32_t count = found[of.device];
            const bool is_all = count == kAllBlocks;
            chosen->counts[of.pair] = is_all ? of.all_blocks : count;
            if (!of.is_kept) continue;
            chosen->lists[of.pair] =
                is_all ? std::vector<BlockRange>{{0, of.all_blocks}}
                       : RangesOf(found + pairs + of.device * room, count);
          }
        });
  }
  if (tells_lists && own.chosen_counts != nullptr) {
    group.row_room = own.chosen_counts + pairs;
  } else if (group.row_room == nullptr) {
    group.row_room = step_.room.Take<int32_t>(pairs * room);
  }
  // Lists of one launch are found from one address.
  if (own.blocks == nullptr) own.blocks = group.row_room;
  group.row_lists.blocks = own.blocks;
  own.own_offset = (reinterpret_cast<intptr_t>(group.row_room) -
                    reinterpret_cast<intptr_t>(own.blocks)) /
                   static_cast<intptr_t>(sizeof(int32_t));
}

absl::Status StepSelection::LaunchRows(const Group& group) {
  if (!group.chooses_rows) return absl::OkStatus();
  const DecodeSelectionArgs& rows = group.row_args;
  ASSIGN_OR_RETURN(
      const DecodeSelection* selection,
      ForRows(int64_t{rows.sequences} * rows.kv.kv_heads * rows.most_blocks));
  const DecodeChoice& own = rows.choice;
  return step_.launches.Add(
      {operations_.choose_for_output, Bits(selection),
       static_cast<uint64_t>(rows.sequences), Bits(rows.queries),
       Bits(rows.kv.keys), Bits(rows.key_bounds), Bits(rows.kv.page_tables),
       static_cast<uint64_t>(rows.kv.page_table_stride), Bits(rows.lengths),
       Bits(rows.rules), static_cast<uint64_t>(rows.most_blocks),
       Bits(own.block_counts), Bits(own.block_offsets), Bits(own.blocks),
       static_cast<uint64_t>(own.own_offset),
       static_cast<uint64_t>(own.room_blocks), Bits(own.chosen_counts)},
      [selection, rows](CUstream_st* stream) {
        return selection->Run(rows, stream);
      });
}

StepSelection::TileChoice StepSelection::FindTileChoice(
    const SelectArgs& args, const DeviceLayout& base) {
  const int32_t kv_heads = args.kv.kv_heads;
  TileChoice choice;
  rules_.assign(size_t(base.prefill.tiles) * kv_heads, kBaseList);
  last_row_rules_.assign(rules_.size(), -1);
  for (int32_t pair = 0; pair < base.prefill.tiles * kv_heads; ++pair) {
    const int32_t tile = base.prefill_tiles.tiles[pair / kv_heads];
    const int32_t of_layout = tile * kv_heads + pair % kv_heads;
    const HeadSelection& selection = args.selections[of_layout];
    if (!selection.IsUsedIn(args.layer)) continue;
    const SelectionRule& rule = args.rules[selection.rule];
    if (std::holds_alternative<PageBoundRule>(rule)) {
      rules_[pair] = kRowList;
      choice.takes_rows = true;
      continue;
    }
    if (kLastRowRules.Has(rule)) {
      last_row_rules_[pair] = IndexOf(rule, choice.last_row_rules);
    } else {
      rules_[pair] = IndexOf(rule, choice.block_rules);
    }
    choice.pairs.push_back({of_layout, pair});
  }
  return choice;
}

absl::Status StepSelection::ChooseForTiles(const SelectArgs& args,
                                           const DeviceLayout& base,
                                           Group& group, DeviceLayout& result) {
  TileChoice choice = FindTileChoice(args, base);
  if (!choice.UsesBlockSelection() && choice.last_row_rules.empty()) {
    return absl::OkStatus();
  }
  BlockSelectionArgs tiles;
  tiles.queries = args.queries.data;
  tiles.query_stride = args.queries.columns;
  tiles.heads = args.heads;
  tiles.kv = Paged(args.kv, base.page_tables, base.page_table_stride);
  tiles.scale = args.scale;
  tiles.tiles = base.prefill.tiles;
  tiles.tile_fields = base.prefill.tile_fields;
  tiles.slices =
      static_cast<int32_t>(base.prefill_tiles.first_tiles.size()) - 1;
  tiles.most_blocks = base.prefill_tiles.most_blocks;
  if (choice.block_rules.empty() && choice.last_row_rules.empty()) {
    tiles.most_blocks = static_cast<int32_t>(RoundedUp(tiles.most_blocks, 64));
  }
  RETURN_IF_ERROR(PlaceTileLists(args, base, tiles.most_blocks, group));
  tiles.first_tiles = group.first_tiles;
  tiles.base_list_of = base.prefill.list_of;
  tiles.chosen = group.chosen;
  if (args.chosen != nullptr && !choice.pairs.empty()) {
    tiles.chosen.counts = step_.results.Add<int32_t>(
        int64_t{tiles.tiles} * args.kv.kv_heads,
        [chosen = args.chosen,
         pairs = std::move(choice.pairs)](const int32_t* found) {
          for (const ChosenPair& of : pairs) {
            chosen->counts[of.pair] = found[of.device];
          }
        });
  }
  result.prefill = ListsOf(tiles);
  if (choice.UsesBlockSelection()) {
    PlaceRules(rules_, group.block_rules);
    BlockSelectionArgs by_blocks = tiles;
    by_blocks.rule_of = group.block_rules.device;
    if (choice.takes_rows) {
      by_blocks.row_lists = {group.row_lists.block_counts,
                             group.row_lists.block_offsets,
                             group.row_lists.blocks};
    }
    RETURN_IF_ERROR(LaunchTiles(by_blocks, std::move(choice.block_rules)));
    tiles.base_list_of = nullptr;  // list_of is there
  }
  return LaunchLastRows(tiles, choice.last_row_rules, group);
}

absl::Status StepSelection::PlaceTileLists(const SelectArgs& args,
                                           const DeviceLayout& base,
                                           int32_t most_blocks, Group& group) {
  if (group.first_tiles != nullptr) return absl::OkStatus();
  group.first_tiles =
      step_.arrays.Copy(absl::MakeConstSpan(base.prefill_tiles.first_tiles));
  const int64_t pairs = int64_t{base.prefill.tiles} * args.kv.kv_heads;
  ChosenLists& chosen = group.chosen;
  chosen.base_lists = static_cast<int32_t>(base.prefill_tiles.lists);
  chosen.base_full_blocks = base.prefill_tiles.full_blocks;
  chosen.base_partial_blocks = base.prefill_tiles.partial_blocks;
  StepRoom& room = step_.room;
  const int64_t partial_blocks = chosen.PartialBlocksWith(pairs);
  chosen.list_of = room.Take<int32_t>(pairs);
  chosen.full_offsets = room.Take<int64_t>(chosen.OffsetsWith(pairs));
  chosen.full_blocks =
      room.Take<int32_t>(chosen.FullBlocksWith(pairs, most_blocks));
  chosen.partial_offsets = room.Take<int64_t>(chosen.OffsetsWith(pairs));
  chosen.partial_blocks = room.Take<int32_t>(partial_blocks);
  if (base.prefill.partial_masks != nullptr) {
    chosen.partial_masks = room.Take<uint64_t>(partial_blocks * kPageTokens);
  }
  chosen.order = room.Take<int32_t>(pairs);
  RETURN_IF_ERROR(room.status());

  const DeviceBlockLists& from = base.prefill;
  const auto copy = [&](const auto* what, int64_t count, auto* to) {
    return CopyOnDevice(what, count, to, operations_.copy_lists,
                        step_.launches);
  };
  const int64_t offsets = int64_t{chosen.base_lists} + 1;
  RETURN_IF_ERROR(copy(from.full_offsets, offsets, chosen.full_offsets));
  RETURN_IF_ERROR(
      copy(from.full_blocks, chosen.base_full_blocks, chosen.full_blocks));
  RETURN_IF_ERROR(copy(from.partial_offsets, offsets, chosen.partial_offsets));
  RETURN_IF_ERROR(copy(from.partial_blocks, chosen.base_partial_blocks,
                       chosen.partial_blocks));
  if (chosen.partial_masks == nullptr) return absl::OkStatus();
  return copy(from.partial_masks, chosen.base_partial_blocks * kPageTokens,
              chosen.partial_masks);
}

void StepSelection::PlaceRules(const std::vector<int32_t>& rules,
                               TileRules& to) {
  if (to.device != nullptr && to.here == rules) return;
  to.here = rules;
  to.device = step_.arrays.Copy(absl::MakeConstSpan(rules));
}

absl::Status StepSelection::LaunchTiles(const BlockSelectionArgs& args,
                                        std::vector<SelectionRule> rules) {
  BlockSelectionArgs tiles = args;
  tiles.rules = rules.data();
  tiles.rule_count = static_cast<int32_t>(rules.size());
  ASSIGN_OR_RETURN(const BlockSelection* selection,
                   ForTiles(BlockSelection::LeastWorkspace(tiles)));
  return LaunchChoice(operations_.choose_for_prompt, selection, tiles,
                      std::move(rules), step_.launches);
}

absl::Status StepSelection::LaunchLastRows(
    BlockSelectionArgs args, const std::vector<SelectionRule>& rules,
    Group& group) {
  constexpr size_t kMostRules = LastRowsSelection::kMostRules;
  for (size_t first = 0; first < rules.size(); first += kMostRules) {
    const size_t run = first / kMostRules;
    const size_t count = std::min(rules.size() - first, kMostRules);
    std::vector<int32_t> rule_of(last_row_rules_.size(), -1);
    for (size_t pair = 0; pair < rule_of.size(); ++pair) {
      const int64_t rule = last_row_rules_[pair] - static_cast<int64_t>(first);
      if (rule >= 0 && rule < static_cast<int64_t>(count)) {
        rule_of[pair] = static_cast<int32_t>(rule);
      }
    }
    if (group.last_row_rules.size() <= run) {
      group.last_row_rules.resize(run + 1);
    }
    PlaceRules(rule_of, group.last_row_rules[run]);
    args.rule_of = group.last_row_rules[run].device;
    std::vector<SelectionRule> own(rules.begin() + first,
                                   rules.begin() + first + count);
    args.rules = own.data();
    args.rule_count = static_cast<int32_t>(count);
    ASSIGN_OR_RETURN(const LastRowsSelection* selection, ForLastRows(args));
    RETURN_IF_ERROR(LaunchChoice(operations_.choose_by_last_rows, selection,
                                 args, std::move(own), step_.launches));
    args.base_list_of = nullptr;  // list_of is there
  }
  return absl::OkStatus();
}

absl::StatusOr<const DecodeSelection*> StepSelection::ForRows(int64_t scores) {
  if (for_rows_.empty() || row_scores_ < scores) {
    row_scores_ = RoundedUp(scores, kLeastScores);
    std::unique_ptr<DecodeSelection> created;
    RETURN_IF_ERROR(Failed(DecodeSelection::Create(row_scores_, &created)));
    for_rows_.push_back(std::move(created));
  }
  return for_rows_.back().get();
}

absl::StatusOr<const BlockSelection*> StepSelection::ForTiles(
    int64_t workspace_bytes) {
  if (for_tiles_.empty() ||
      for_tiles_.back()->workspace_bytes() < workspace_bytes) {
    std::unique_ptr<BlockSelection> created;
    RETURN_IF_ERROR(Failed(BlockSelection::Create(
        RoundedUp(workspace_bytes, kLeastWorkspaceBytes), &created)));
    for_tiles_.push_back(std::move(created));
  }
  return for_tiles_.back().get();
}

absl::StatusOr<const LastRowsSelection*> StepSelection::ForLastRows(
    const BlockSelectionArgs& args) {
  const auto create = [&](int64_t bytes) {
    last_rows_bytes_ = bytes;
    std::unique_ptr<LastRowsSelection> created;
    RETURN_IF_ERROR(Failed(LastRowsSelection::Create(bytes, &created)));
    for_last_rows_.push_back(std::move(created));
    return absl::OkStatus();
  };
  if (for_last_rows_.empty()) RETURN_IF_ERROR(create(kLeastWorkspaceBytes));
  const int64_t of_slice = for_last_rows_.back()->BytesForSlice(args);
  if (of_slice > last_rows_bytes_) {
    RETURN_IF_ERROR(create(RoundedUp(of_slice, kLeastWorkspaceBytes)));
  }
  return for_last_rows_.back().get();
}

}  // namespace sparseserve::cuda
