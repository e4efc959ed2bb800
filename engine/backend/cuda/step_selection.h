#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/block_selection.h"
#include "engine/backend/cuda/decode_selection.h"
#include "engine/backend/cuda/device_layout.h"
#include "engine/backend/cuda/last_rows_selection.h"
#include "engine/backend/cuda/step_arrays.h"
#include "engine/backend/cuda/step_launches.h"
#include "engine/backend/cuda/step_results.h"
#include "engine/backend/cuda/step_room.h"
#include "engine/layout/selection_rule.h"

namespace sparseserve::cuda {

// Chooses the blocks of a step's layers: from what SelectArgs says to the
// kernels that choose, and to a DeviceLayout whose lists they write. Nothing of
// a choice comes to the host before the step ends. Single output rows choose by
// DecodeSelection, prompt tiles by BlockSelection or, where their last rows
// choose, LastRowsSelection. One thread.
class StepSelection {
 public:
  // What a step's launches read and write; outlives this.
  struct Step {
    StepArrays& arrays;
    StepRoom& room;
    StepResults& results;
    StepLaunches& launches;
  };
  // For signatures of launches.
  struct Operations {
    uint64_t choose_for_output = 0;
    uint64_t copy_lists = 0;
    uint64_t choose_for_prompt = 0;
    uint64_t choose_by_last_rows = 0;
  };

  // The rules that kernels run for a context of so many tokens and so many
  // pairs of output row and KV head.
  static SelectionRuleKinds RulesFor(int64_t context_tokens, int64_t pairs);

  StepSelection(Step step, Operations operations)
      : step_(step), operations_(operations) {}

  // Forgets the last step's. REQUIRES: nothing of it is under way.
  void Begin() { groups_.clear(); }

  // Queues what a layer's rules need, by way of Step::launches. The result's
  // lists are good until the next Run() of the same base. `base` is
  // args.base's.
  absl::StatusOr<DeviceLayout> Run(const SelectArgs& args,
                                   const DeviceLayout& base);

 private:
  // A rule_of of BlockSelectionArgs, here and on the device.
  struct TileRules {
    std::vector<int32_t> here;
    const int32_t* device = nullptr;
  };
  // Of the layers that share a base.
  struct Group {
    // Of the last layer's output rows.
    std::vector<int32_t> row_rules;  // [rows, kv_heads, 4]
    DecodeSelectionArgs row_args;
    DecodeLists row_lists;  // what attention reads
    int32_t* row_room = nullptr;
    bool chooses_rows = false;
    // Room for lists of prompt tiles, behind those of the base.
    ChosenLists chosen;
    const int32_t* first_tiles = nullptr;
    // Of the last layer, [tiles, kv_heads]: indices that BlockSelection knows,
    // and those of LastRowsSelection's runs.
    TileRules block_rules;
    std::vector<TileRules> last_row_rules;
  };
  // A pair of the layout whose length, and list if that is kept, the device
  // knows: at `device` in its arrays.
  struct ChosenPair {
    int32_t pair = 0;
    int32_t device = 0;
    int32_t all_blocks = 0;
    bool is_kept = false;
  };
  // How a layer's output rows choose.
  struct RowChoice {
    std::vector<ChosenPair> pairs;
    std::vector<int32_t> kept;  // pairs [rows, kv_heads] with an older choice
    int32_t room_blocks = 1;    // of a list
    int32_t most_blocks = 1;    // of a sequence
    bool is_used = false;
    bool keeps = false;  // lists are told to the host, and kept ones taken
  };

  RowChoice FindRowChoice(const SelectArgs& args, const DeviceLayout& base);
  absl::Status ChooseForRows(const SelectArgs& args, const DeviceLayout& base,
                             Group& group, DeviceLayout& result);
  // The layer's rules and lists, with the kept ones in place.
  void PlaceRows(const SelectArgs& args, const DeviceLayout& base,
                 const RowChoice& choice, Group& group);
  // Room for lists that rows choose, and where the host is told of them.
  void PlaceRowLists(const SelectArgs& args, RowChoice choice, Group& group);
  absl::Status LaunchRows(const Group& group);
  absl::Status ChooseForTiles(const SelectArgs& args, const DeviceLayout& base,
                              Group& group, DeviceLayout& result);
  // How a layer's tiles choose.
  struct TileChoice {
    std::vector<SelectionRule> block_rules;
    std::vector<SelectionRule> last_row_rules;
    std::vector<ChosenPair> pairs;
    bool takes_rows = false;  // lists of output rows

    bool UsesBlockSelection() const {
      return takes_rows || !block_rules.empty();
    }
  };
  // Leaves in rules_ what BlockSelection is to do with each pair, and in
  // last_row_rules_ the index of the pair's rule by last rows, or -1.
  TileChoice FindTileChoice(const SelectArgs& args, const DeviceLayout& base);
  // Once in a step room for the tiles' lists behind the base's, which are
  // copied.
  absl::Status PlaceTileLists(const SelectArgs& args, const DeviceLayout& base,
                              int32_t most_blocks, Group& group);
  // Copies `rules` to the device if they are others than `to` has.
  void PlaceRules(const std::vector<int32_t>& rules, TileRules& to);
  absl::Status LaunchTiles(const BlockSelectionArgs& args,
                           std::vector<SelectionRule> rules);
  // As many rules at a time as a run takes.
  absl::Status LaunchLastRows(BlockSelectionArgs args,
                              const std::vector<SelectionRule>& rules,
                              Group& group);
  // One that has so much room.
  absl::StatusOr<const DecodeSelection*> ForRows(int64_t scores);
  absl::StatusOr<const BlockSelection*> ForTiles(int64_t workspace_bytes);
  // For a slice at a time, at least.
  absl::StatusOr<const LastRowsSelection*> ForLastRows(
      const BlockSelectionArgs& args);

  const Step step_;
  const Operations operations_;
  std::unordered_map<const BlockLayout*, Group> groups_;
  // The last has the most room; earlier ones stay for graphs that use them.
  std::vector<std::unique_ptr<DecodeSelection>> for_rows_;
  int64_t row_scores_ = 0;
  std::vector<std::unique_ptr<BlockSelection>> for_tiles_;
  std::vector<std::unique_ptr<LastRowsSelection>> for_last_rows_;
  int64_t last_rows_bytes_ = 0;
  // Scratch.
  std::vector<int32_t> rules_;
  std::vector<int32_t> last_row_rules_;
  std::vector<int32_t> counts_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> blocks_;
};

}  // namespace sparseserve::cuda
