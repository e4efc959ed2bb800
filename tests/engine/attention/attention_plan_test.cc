#include "engine/attention/attention_plan.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

// A slice that holds its own tokens and pages.
struct Part {
  Part(Phase phase, int first_position, int tokens, PageId first_page)
      : ids(tokens) {
    for (int i = 0; i < tokens; ++i) ids[i] = 100 * first_page + i;
    for (int i = 0; i <= (first_position + tokens - 1) / kPageTokens; ++i) {
      pages.push_back(first_page + 2 * i);
    }
    slice.phase = phase;
    slice.first_position = first_position;
    slice.tokens = ids;
    slice.pages = pages;
  }
  Part(const Part&) = delete;

  std::vector<TokenId> ids;
  std::vector<PageId> pages;
  StepSlice slice;
};

AttentionPlan BuildPlan(const std::vector<const Part*>& parts) {
  std::vector<PlannedSlice> planned;
  for (const Part* part : parts) {
    planned.push_back({&part->slice, DensePattern()});
  }
  AttentionPlan plan({.layers = 3, .kv_heads = 2});
  plan.Build(planned);
  EXPECT_TRUE(plan.layout(0).Validate().ok());
  return plan;
}

TEST(AttentionPlanTest, DecodeRowsComeFirst) {
  const Part prefill(Phase::kPrefill, 0, 2, 1);
  const Part decode(Phase::kDecode, 65, 1, 5);
  const Part more(Phase::kPrefill, 63, 2, 9);
  const AttentionPlan plan = BuildPlan({&prefill, &decode, &more});
  EXPECT_EQ(plan.groups().decode_rows, 1);
  EXPECT_EQ(plan.groups().prefill_rows, 4);
  EXPECT_EQ(plan.rows(), 5);
  EXPECT_EQ(plan.first_row(0), 1);
  EXPECT_EQ(plan.first_row(1), 0);
  EXPECT_EQ(plan.first_row(2), 3);
  EXPECT_THAT(plan.tokens(), ElementsAre(500, 100, 101, 900, 901));
  EXPECT_THAT(plan.positions(), ElementsAre(65, 0, 1, 63, 64));
  // Second pages are 7 and 11.
  EXPECT_THAT(plan.kv_slots(),
              ElementsAre(7 * 64 + 1, 64, 65, 9 * 64 + 63, 11 * 64));
  ASSERT_EQ(plan.pages().size(), 3);
  EXPECT_THAT(plan.pages()[2], ElementsAre(9, 11));
}

TEST(AttentionPlanTest, TilesEndOnBlockBorders) {
  const Part part(Phase::kPrefill, 60, 70, 0);
  const AttentionPlan plan = BuildPlan({&part});
  const auto& tiles = plan.layout(0).tiles;
  ASSERT_EQ(tiles.size(), 3);
  EXPECT_EQ(tiles[0].first_position, 60);
  EXPECT_EQ(tiles[0].rows, 4);
  EXPECT_EQ(tiles[1].first_position, 64);
  EXPECT_EQ(tiles[1].first_row, 4);
  EXPECT_EQ(tiles[1].rows, 64);
  EXPECT_EQ(tiles[2].first_row, 68);
  EXPECT_EQ(tiles[2].rows, 2);
}

TEST(AttentionPlanTest, HeadsOfATileShareTheDenseList) {
  const Part part(Phase::kDecode, 200, 1, 0);
  const AttentionPlan plan = BuildPlan({&part});
  EXPECT_EQ(plan.layout(0).lists(), 1);
  EXPECT_THAT(plan.layout(0).list_of, ElementsAre(0, 0));
  EXPECT_THAT(plan.layout(0).full_blocks, ElementsAre(0, 1, 2));
  EXPECT_THAT(plan.layout(0).partial_blocks, ElementsAre(3));
}

TEST(AttentionPlanTest, CountsBlocksOfEachSliceOverLayersAndHeads) {
  const Part decode(Phase::kDecode, 129, 1, 0);
  const Part prefill(Phase::kPrefill, 0, 128, 8);
  const AttentionPlan plan = BuildPlan({&decode, &prefill});
  EXPECT_EQ(plan.blocks(0).allowed, 3 * 3 * 2);
  EXPECT_EQ(plan.blocks(1).allowed, (1 + 2) * 3 * 2);
  EXPECT_EQ(plan.blocks(0).computed, plan.blocks(0).allowed);
  EXPECT_EQ(plan.blocks(1).computed, plan.blocks(1).allowed);
}

TEST(AttentionPlanTest, LayersOfOneWindowShareALayout) {
  const Part decode(Phase::kDecode, 200, 1, 0);
  AttentionPlan plan(
      {.layers = 4, .kv_heads = 2, .layer_windows = {70, 0, 70, 0}});
  const PlannedSlice planned = {&decode.slice, DensePattern()};
  plan.Build({&planned, 1});
  EXPECT_EQ(&plan.layout(0), &plan.layout(2));
  EXPECT_EQ(&plan.layout(1), &plan.layout(3));
  // 131 ... 200 are seen.
  EXPECT_THAT(plan.layout(0).full_blocks, ElementsAre());
  EXPECT_THAT(plan.layout(0).partial_blocks, ElementsAre(2, 3));
  EXPECT_THAT(plan.layout(1).full_blocks, ElementsAre(0, 1, 2));
  EXPECT_THAT(plan.layout(1).partial_blocks, ElementsAre(3));
  // Causality allows 4 blocks in each of 4 layers.
  EXPECT_EQ(plan.blocks(0).allowed, 4 * 4 * 2);
  EXPECT_EQ(plan.blocks(0).computed, (2 + 4 + 2 + 4) * 2);
}

TEST(AttentionPlanTest, NarrowerOfPatternAndLayerCounts) {
  const Part decode(Phase::kDecode, 400, 1, 0);
  AttentionPlan plan({.layers = 2, .kv_heads = 1, .layer_windows = {1000, 70}});
  const PlannedSlice planned = {&decode.slice, SlidingWindowPattern{200}};
  plan.Build({&planned, 1});
  EXPECT_EQ(plan.layout(0).PredicateOf(0)->window_tokens, 200);
  EXPECT_EQ(plan.layout(1).PredicateOf(0)->window_tokens, 70);
}

TEST(AttentionPlanTest, PromptBlocksBehindTheSecondFollowTheirSlicesRule) {
  const Part decode(Phase::kDecode, 400, 1, 0);
  const Part dense(Phase::kPrefill, 200, 64, 20);
  const Part ruled(Phase::kPrefill, 100, 156, 40);
  AttentionPlan plan(
      {.layers = 4, .kv_heads = 2, .layer_windows = {0, 0, 70, 0}});
  const XAttentionPattern pattern = {
      .stride = 16, .threshold = 0.5f, .dense_layers = 1};
  const PlannedSlice planned[] = {{&decode.slice, pattern},
                                  {&dense.slice, DensePattern()},
                                  {&ruled.slice, pattern}};
  plan.Build(planned);
  // Tiles: 400; 200, 256; 100, 128, 192.
  std::vector<int> ruled_tiles;
  for (size_t t = 0; t < plan.selections().size(); ++t) {
    if (plan.selections()[t].IsUsedIn(1)) {
      ruled_tiles.push_back(static_cast<int>(t));
    }
    EXPECT_FALSE(plan.selections()[t].IsUsedIn(0));
  }
  EXPECT_THAT(ruled_tiles, ElementsAre(4, 5));
  const auto& rule =
      std::get<AntidiagonalRule>(plan.rules()[plan.selections()[4].rule]);
  EXPECT_EQ(rule.stride, 16);
  EXPECT_EQ(rule.mass, 0.5f);
  // Layer 0 is the pattern's dense one, layer 2 has a window of its own.
  std::vector<int> selecting;
  for (int layer = 0; layer < 4; ++layer) {
    if (plan.Selects(layer)) selecting.push_back(layer);
  }
  EXPECT_THAT(selecting, ElementsAre(1, 3));

  // Dense layer 0, window layer 2 and the first tile are counted at once ...
  EXPECT_EQ(plan.blocks(2).allowed, (2 + 3 + 4) * 4 * 2);
  const int64_t before = (2 + 3 + 4) * 2 + (2 + 3 + 3) * 2 + 2 * 2 * 2;
  EXPECT_EQ(plan.blocks(2).computed, before);
  // ... and what rules choose once it is known.
  LayoutBuilder selected(2);
  for (const QueryTile& tile : plan.layout(1).tiles) {
    selected.AddTile(tile);
    const int32_t block = QueryBlock(tile, kPageTokens);
    selected.Assign(0, selected.AddList({{0, 1}, {block, block + 1}}));
    selected.Assign(1, selected.AddList({{block, block + 1}}));
  }
  plan.CountSelected(1, selected.layout());
  EXPECT_EQ(plan.blocks(2).computed, before + 2 * (2 + 1));
  // The decode row follows no rule.
  EXPECT_EQ(plan.blocks(0).computed, (7 + 7 + 2 + 7) * 2);
}

TEST(AttentionPlanTest, PromptsLastBlockIsDenseIfThePatternSaysSo) {
  Part part(Phase::kPrefill, 0, 200, 0);
  part.slice.wants_token = true;
  for (const bool is_dense : {false, true}) {
    AttentionPlan plan({.layers = 1, .kv_heads = 1});
    const PlannedSlice planned = {
        &part.slice,
        XAttentionPattern{.dense_layers = 0, .is_last_block_dense = is_dense}};
    plan.Build({&planned, 1});
    ASSERT_EQ(plan.selections().size(), 4);
    EXPECT_TRUE(plan.selections()[2].IsUsedIn(0));
    EXPECT_EQ(plan.selections()[3].IsUsedIn(0), !is_dense);
  }
}

TEST(AttentionPlanTest, SampledRowsVisitWhatDenseOnesWould) {
  const Part other(Phase::kPrefill, 0, 3, 20);
  Part part(Phase::kPrefill, 100, 100, 0);
  const std::vector<int32_t> rows = {1, 40};
  std::vector<float> recall(2 * 2 * 4);
  part.slice.recall_rows = rows;
  part.slice.recall = absl::MakeSpan(recall);
  AttentionPlan plan(
      {.layers = 2, .heads = 4, .kv_heads = 2, .layer_windows = {0, 30}});
  const PlannedSlice planned[] = {{&other.slice, DensePattern()},
                                  {&part.slice, SlidingWindowPattern{5}}};
  plan.Build(planned);
  ASSERT_EQ(plan.samples().size(), 2);
  EXPECT_EQ(plan.samples()[0].row, 3 + 1);
  EXPECT_EQ(plan.samples()[0].recall, recall.data());
  EXPECT_EQ(plan.samples()[1].row, 3 + 40);
  EXPECT_EQ(plan.samples()[1].recall, recall.data() + 2 * 4);
  const BlockLayout& dense = plan.sampled_layout(0);
  EXPECT_EQ(dense.Validate(), absl::OkStatus());
  ASSERT_EQ(dense.tiles.size(), 2);
  EXPECT_EQ(dense.tiles[1].slice, 1);
  EXPECT_EQ(dense.tiles[1].first_row, 43);
  EXPECT_EQ(dense.tiles[1].rows, 1);
  EXPECT_EQ(dense.tiles[1].first_position, 140);
  EXPECT_THAT(dense.full_blocks, ElementsAre(0, 0, 1));
  EXPECT_THAT(dense.partial_blocks, ElementsAre(1, 2));
  // The checkpoint's window is part of what dense means.
  EXPECT_EQ(plan.sampled_layout(1).PredicateOf(1)->window_tokens, 30);
}

TEST(AttentionPlanTest, BuildingAgainForgetsTheStepBefore) {
  const Part first(Phase::kPrefill, 0, 100, 0);
  const Part second(Phase::kDecode, 3, 1, 4);
  AttentionPlan plan({.layers = 1, .kv_heads = 1});
  const PlannedSlice planned[] = {{&first.slice, DensePattern()},
                                  {&second.slice, DensePattern()}};
  plan.Build(planned);
  plan.Build({&planned[1], 1});
  EXPECT_EQ(plan.rows(), 1);
  EXPECT_EQ(plan.groups().prefill_rows, 0);
  EXPECT_EQ(plan.layout(0).tiles.size(), 1);
  EXPECT_EQ(plan.layout(0).lists(), 1);
  EXPECT_EQ(plan.blocks(0).allowed, 1);
}

}  // namespace
}  // namespace sparseserve
