#include "engine/attention/attention_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>
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
  ASSERT_EQ(plan.selections(1).size(), 6 * 2);
  for (int t = 0; t < 6; ++t) {
    for (int head = 0; head < 2; ++head) {
      const HeadSelection& selection = plan.selections(1)[t * 2 + head];
      if (selection.IsUsedIn(1)) ruled_tiles.push_back(t);
      EXPECT_FALSE(selection.IsUsedIn(0));
    }
  }
  EXPECT_THAT(ruled_tiles, ElementsAre(4, 4, 5, 5));
  const auto& rule =
      std::get<AntidiagonalRule>(plan.rules()[plan.selections(1)[4 * 2].rule]);
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
  plan.TakeSelected(1, selected.layout());
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
    ASSERT_EQ(plan.selections(0).size(), 4);
    EXPECT_TRUE(plan.selections(0)[2].IsUsedIn(0));
    EXPECT_EQ(plan.selections(0)[3].IsUsedIn(0), !is_dense);
  }
}

PatternMap Map(int layers, int kv_heads, std::vector<PatternSpec> patterns,
               const std::vector<int32_t>& pattern_of) {
  return PatternMap::Create({layers, kv_heads}, std::move(patterns), pattern_of)
      .value();
}

TEST(AttentionPlanTest, HeadsAndLayersOfAMapHaveTheirPatterns) {
  const Part part(Phase::kPrefill, 640, 64, 0);
  AttentionPlan plan(
      {.layers = 4, .kv_heads = 3, .layer_windows = {0, 0, 100, 0}});
  const PatternMap map =
      Map(4, 3, {DensePattern(), SinkWindowPattern{1, 64}, StridedPattern{256}},
          {0, 1, 0, 1, 2, 1, 1, 2, 1, 0, 1, 0});
  const PlannedSlice planned = {.slice = &part.slice, .map = &map};
  plan.Build({&planned, 1});
  // Layers 1 and 2 have the same patterns, but one has a window.
  EXPECT_EQ(&plan.layout(0), &plan.layout(3));
  EXPECT_NE(&plan.layout(0), &plan.layout(1));
  EXPECT_NE(&plan.layout(1), &plan.layout(2));
  EXPECT_THAT(plan.layout(0).list_of, ElementsAre(0, 1, 0));
  EXPECT_THAT(plan.layout(1).list_of, ElementsAre(0, 1, 0));
  const BlockLayout& first = plan.layout(0);
  EXPECT_EQ(first.PredicateOf(0), nullptr);
  EXPECT_EQ(*first.PredicateOf(1), (KeyPredicate{SinkWindowKeys{1, 64}}));
  EXPECT_EQ(*plan.layout(2).PredicateOf(1),
            (KeyPredicate{StridedKeys{256}, 100}));
  // Dense: 11 blocks; sink and window: 3; strides: 2, 6, and 6 to 10; within
  // 100 tokens: window 2 and strides 3 (8, 9 and 10).
  EXPECT_EQ(plan.blocks(0).allowed, 11 * 12);
  EXPECT_EQ(plan.blocks(0).computed,
            2 * (11 + 3 + 11) + (3 + 6 + 3) + (2 + 3 + 2));
}

TEST(AttentionPlanTest, SlicesOfDifferentMapsShareAStep) {
  const Part one(Phase::kPrefill, 0, 130, 0);
  const Part two(Phase::kPrefill, 0, 130, 10);
  const Part three(Phase::kDecode, 129, 1, 20);
  AttentionPlan plan({.layers = 3, .kv_heads = 1});
  const std::vector<PatternSpec> patterns = {DensePattern(),
                                             SlidingWindowPattern{1}};
  const PatternMap first = Map(3, 1, patterns, {0, 1, 1});
  const PatternMap second = Map(3, 1, patterns, {0, 0, 1});
  const PlannedSlice planned[] = {{.slice = &one.slice, .map = &first},
                                  {.slice = &two.slice, .map = &second},
                                  {.slice = &three.slice}};
  plan.Build(planned);
  // No two layers agree in both maps. Tiles: the decode row, then three each.
  const auto blocks_of = [&](int layer) {
    const BlockLayout& layout = plan.layout(layer);
    EXPECT_EQ(layout.Validate(), absl::OkStatus());
    std::vector<int64_t> blocks;
    for (const int32_t list : layout.list_of) {
      blocks.push_back(layout.ListBlocks(list));
    }
    return blocks;
  };
  EXPECT_THAT(blocks_of(0), ElementsAre(3, 1, 2, 3, 1, 2, 3));
  EXPECT_THAT(blocks_of(1), ElementsAre(3, 1, 1, 1, 1, 2, 3));
  EXPECT_THAT(blocks_of(2), ElementsAre(3, 1, 1, 1, 1, 1, 1));
  EXPECT_EQ(plan.blocks(0).computed, 6 + 3 + 3);
  EXPECT_EQ(plan.blocks(1).computed, 6 + 6 + 3);
  // A step without maps needs one layout again.
  plan.Build({&planned[2], 1});
  EXPECT_EQ(&plan.layout(0), &plan.layout(2));
  EXPECT_THAT(blocks_of(2), ElementsAre(3));
}

TEST(AttentionPlanTest, StaticAndSelectingHeadsShareALayer) {
  const Part part(Phase::kPrefill, 0, 256, 0);
  AttentionPlan plan({.layers = 2, .kv_heads = 3});
  const PatternMap map =
      Map(2, 3,
          {SinkWindowPattern{4, 64}, XAttentionPattern{.dense_layers = 1},
           XAttentionPattern{.stride = 4, .dense_layers = 0}},
          {0, 1, 2, 0, 1, 2});
  const PlannedSlice planned = {.slice = &part.slice, .map = &map};
  plan.Build({&planned, 1});
  EXPECT_EQ(&plan.layout(0), &plan.layout(1));
  ASSERT_EQ(plan.rules().size(), 2);
  EXPECT_TRUE(plan.Selects(0));
  EXPECT_TRUE(plan.Selects(1));
  const auto selecting = [&](int layer, int tile) {
    std::vector<int> heads;
    for (int head = 0; head < 3; ++head) {
      if (plan.selections(layer)[tile * 3 + head].IsUsedIn(layer)) {
        heads.push_back(head);
      }
    }
    return heads;
  };
  EXPECT_THAT(selecting(0, 1), ElementsAre());
  EXPECT_THAT(selecting(0, 2), ElementsAre(2));
  EXPECT_THAT(selecting(1, 3), ElementsAre(1, 2));
  const auto rule_of = [&](int head) {
    return std::get<AntidiagonalRule>(
        plan.rules()[plan.selections(1)[3 * 3 + head].rule]);
  };
  EXPECT_EQ(rule_of(1).stride, 8);
  EXPECT_EQ(rule_of(2).stride, 4);
  // Known at once: the window's blocks, and what selecting heads see where
  // they do not select.
  const int64_t window = 1 + 2 + 3 + 3;
  EXPECT_EQ(plan.blocks(0).allowed, 10 * 6);
  EXPECT_EQ(plan.blocks(0).computed, 2 * window + 10 + 3 + 3 + 3);
  LayoutBuilder selected(3);
  for (const QueryTile& tile : plan.layout(1).tiles) {
    selected.AddTile(tile);
    const int32_t block = QueryBlock(tile, kPageTokens);
    const int32_t own = selected.AddList({{block, block + 1}});
    for (int head = 0; head < 3; ++head) selected.Assign(head, own);
  }
  plan.TakeSelected(0, selected.layout());
  plan.TakeSelected(1, selected.layout());
  EXPECT_EQ(plan.blocks(0).computed, 2 * window + 10 + 9 + 2 + 2 + 2);
}

// One of two KV heads chooses, in the second of two layers.
TEST(AttentionPlanTest, ChoicesOfOutputRowsAreKeptForTheirPeriod) {
  const PatternMap map =
      PatternMap::Create(
          {2, 2},
          {QuestPattern{.dense_layers = 1, .reuse_steps = 4}, DensePattern()},
          {0, 1, 0, 1})
          .value();
  AttentionPlan plan({.layers = 2, .kv_heads = 2});
  KeptBlocks kept;
  const auto build = [&](const Part& part) {
    StepSlice slice = part.slice;
    slice.kept_blocks = &kept;
    const PlannedSlice planned = {&slice, DensePattern(), &map};
    plan.Build({&planned, 1});
  };
  const auto is_kept = [&](int layer) {
    const auto lists = plan.FindKept(layer);
    return std::any_of(lists.begin(), lists.end(),
                       [](const auto& list) { return !list.empty(); });
  };
  const Part first(Phase::kDecode, 201, 1, 0);
  build(first);
  EXPECT_FALSE(is_kept(1));
  LayoutBuilder selected(2);
  selected.AddTile(plan.layout(1).tiles[0]);
  selected.Assign(0, selected.AddList({{0, 1}, {2, 4}}));
  selected.Assign(1, selected.AddListOf({}));
  const int64_t before = plan.blocks(0).computed;
  plan.TakeSelected(1, selected.layout());
  EXPECT_EQ(plan.blocks(0).computed, before + 3);

  const Part next(Phase::kDecode, 202, 1, 0);
  build(next);
  EXPECT_FALSE(is_kept(0));
  ASSERT_EQ(plan.FindKept(1).size(), 2);
  ASSERT_EQ(plan.FindKept(1)[0].size(), 2);
  EXPECT_EQ(plan.FindKept(1)[0][1].begin, 2);
  EXPECT_EQ(plan.FindKept(1)[0][1].end, 4);
  EXPECT_THAT(plan.FindKept(1)[1], ElementsAre());
  // What was used again is counted too, and not kept anew.
  plan.TakeSelected(1, selected.layout());
  EXPECT_EQ(plan.blocks(0).computed, before + 3);
  build(next);
  EXPECT_TRUE(is_kept(1));

  // The next period; several rows; a prompt.
  build(Part(Phase::kDecode, 204, 1, 0));
  EXPECT_FALSE(is_kept(1));
  build(Part(Phase::kDecode, 202, 2, 0));
  EXPECT_FALSE(is_kept(1));
  build(next);
  EXPECT_TRUE(is_kept(1));
  build(Part(Phase::kPrefill, 0, 203, 0));
  build(Part(Phase::kDecode, 203, 1, 0));
  EXPECT_FALSE(is_kept(1));
}

// A device that keeps its lists says at a step's end how long they are.
TEST(AttentionPlanTest, ChoicesThatAreToldLaterCountAndAreKept) {
  const PatternSpec quest = QuestPattern{.dense_layers = 1, .reuse_steps = 4};
  AttentionPlan plan({.layers = 3, .kv_heads = 2});
  KeptBlocks kept;
  const auto build = [&](int position) {
    const Part part(Phase::kDecode, position, 1, 0);
    StepSlice slice = part.slice;
    slice.kept_blocks = &kept;
    const PlannedSlice planned = {&slice, quest};
    plan.Build({&planned, 1});
  };
  build(201);
  const int64_t before = plan.blocks(0).computed;
  plan.chosen(1) = {.counts = {2, 3}, .lists = {{{0, 1}, {3, 4}}, {{1, 4}}}};
  plan.chosen(2) = {.counts = {4, 4}, .lists = {{{0, 4}}, {{0, 4}}}};
  plan.TakeChosen();
  EXPECT_EQ(plan.blocks(0).computed, before + 2 + 3 + 4 + 4);
  build(202);
  ASSERT_EQ(plan.FindKept(1).size(), 2);
  ASSERT_EQ(plan.FindKept(1)[1].size(), 1);
  EXPECT_EQ(plan.FindKept(1)[1][0].begin, 1);
  EXPECT_EQ(plan.FindKept(1)[1][0].end, 4);
  // What is used again is counted, and not kept anew.
  plan.chosen(1) = {.counts = {2, 3}, .lists = {{}, {}}};
  plan.chosen(2) = {.counts = {4, 4}, .lists = {{}, {}}};
  plan.TakeChosen();
  EXPECT_EQ(plan.blocks(0).computed, before + 2 + 3 + 4 + 4);
  EXPECT_EQ(plan.FindKept(1)[0].size(), 2);
}

// A sequence chooses at 130 and is set back to before it: however its rows run
// again, the choice was that of tokens that are gone.
TEST(AttentionPlanTest, ChoicesOfRowsThatRunAgainAreDropped) {
  const PatternSpec quest = QuestPattern{.dense_layers = 0, .reuse_steps = 64};
  AttentionPlan plan({.layers = 1, .kv_heads = 1});
  KeptBlocks kept;
  const auto build = [&](int position, int rows, const PatternSpec& pattern) {
    const Part part(Phase::kDecode, position, rows, 0);
    StepSlice slice = part.slice;
    slice.kept_blocks = &kept;
    const PlannedSlice planned = {&slice, pattern};
    plan.Build({&planned, 1});
    const auto lists = plan.FindKept(0);
    return !lists.empty() && !lists[0].empty();
  };
  const auto choose = [&] {
    EXPECT_FALSE(build(130, 1, quest));
    LayoutBuilder selected(1);
    selected.AddTile(plan.layout(0).tiles[0]);
    selected.Assign(0, selected.AddList({{0, 1}, {2, 3}}));
    plan.TakeSelected(0, selected.layout());
    EXPECT_TRUE(build(132, 1, quest));
  };
  choose();
  build(129, 3, quest);
  EXPECT_FALSE(build(132, 1, quest));

  for (const PatternSpec& other :
       {PatternSpec(DensePattern()),
        PatternSpec(QuestPattern{.sink_tokens = 200, .reuse_steps = 64}),
        PatternSpec(PageTopPPattern())}) {
    SCOPED_TRACE(PatternName(other));
    choose();
    for (const int position : {129, 130, 131}) build(position, 1, other);
    EXPECT_FALSE(build(132, 1, quest));
  }

  // What was chosen before the rows that run again stands.
  choose();
  build(131, 3, DensePattern());
  EXPECT_TRUE(build(134, 1, quest));
}

// Where no pattern uses a choice again nothing is looked up, in any layer.
TEST(AttentionPlanTest, SlicesWithoutReuseKeepNothing) {
  AttentionPlan plan({.layers = 1, .kv_heads = 1});
  KeptBlocks kept;
  const Part part(Phase::kDecode, 201, 1, 0);
  StepSlice slice = part.slice;
  slice.kept_blocks = &kept;
  for (const int reuse_steps : {1, 2}) {
    const PlannedSlice planned = {
        &slice, QuestPattern{.dense_layers = 0, .reuse_steps = reuse_steps}};
    plan.Build({&planned, 1});
    ASSERT_TRUE(plan.Selects(0));
    EXPECT_EQ(plan.FindKept(0).size(), reuse_steps == 1 ? 0 : 1);
  }
}

// The prompt's length says where its last blocks are, whatever the chunk.
TEST(AttentionPlanTest, ChunksOfTriShapeAreTheWholePrompts) {
  Part whole(Phase::kPrefill, 0, 700, 0);
  Part begin(Phase::kPrefill, 0, 600, 0);
  Part end(Phase::kPrefill, 600, 100, 0);
  whole.slice.wants_token = true;
  begin.slice.prompt = whole.slice.tokens;
  end.slice.prompt = whole.slice.tokens;
  AttentionPlan plan({.layers = 1, .kv_heads = 1});
  const auto computed = [&](const Part& part) {
    const PlannedSlice planned = {&part.slice, TriShapePattern{4, 64, 3}};
    plan.Build({&planned, 1});
    return plan.blocks(0).computed;
  };
  // Blocks 8, 9 and 10 of 0 ... 10 are dense; each other has 3 but the first
  // two.
  EXPECT_EQ(computed(whole), 1 + 2 + 6 * 3 + 9 + 10 + 11);
  // Block 9 is cut in two.
  EXPECT_EQ(computed(begin) + computed(end), computed(whole) + 10);
  // Without a prompt or an end, nobody knows.
  begin.slice.prompt = {};
  EXPECT_EQ(computed(begin), 1 + 2 + 8 * 3);
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
  const BlockLayout& dense = plan.dense_rows(0);
  EXPECT_EQ(dense.Validate(), absl::OkStatus());
  ASSERT_EQ(dense.tiles.size(), 2);
  EXPECT_EQ(dense.tiles[1].slice, 1);
  EXPECT_EQ(dense.tiles[1].first_row, 43);
  EXPECT_EQ(dense.tiles[1].rows, 1);
  EXPECT_EQ(dense.tiles[1].first_position, 140);
  EXPECT_THAT(dense.full_blocks, ElementsAre(0, 0, 1));
  EXPECT_THAT(dense.partial_blocks, ElementsAre(1, 2));
  // The checkpoint's window is part of what dense means.
  EXPECT_EQ(plan.dense_rows(1).PredicateOf(1)->window_tokens, 30);
}

// first row, rows, KV head and first layer of each correction
std::vector<std::vector<int>> Corrections(const AttentionPlan& plan,
                                          int layer) {
  std::vector<std::vector<int>> found;
  for (const RowCorrection& c : plan.corrections(layer)) {
    found.push_back({c.row, c.rows, c.kv_head, c.first_layer});
  }
  return found;
}

// Positions of the rows that are attended densely.
std::vector<int> DensePositions(const AttentionPlan& plan, int layer) {
  std::vector<int> found;
  for (const QueryTile& tile : plan.dense_rows(layer).tiles) {
    EXPECT_EQ(tile.rows, 1);
    found.push_back(tile.first_position);
  }
  return found;
}

TEST(AttentionPlanTest, RowsOnTheGridCorrectThoseUpToTheNext) {
  const Part part(Phase::kPrefill, 0, 200, 0);
  AttentionPlan plan({.layers = 3, .kv_heads = 2});
  const PlannedSlice planned = {&part.slice,
                                DeltaPattern{SinkWindowPattern{4, 64}, 32}};
  plan.Build({&planned, 1});
  // Row 68 is the first that sees less than all: row 64 has nothing to correct
  // by.
  EXPECT_THAT(
      Corrections(plan, 1),
      ElementsAre(ElementsAre(96, 32, 0, 0), ElementsAre(96, 32, 1, 0),
                  ElementsAre(128, 32, 0, 0), ElementsAre(128, 32, 1, 0),
                  ElementsAre(160, 32, 0, 0), ElementsAre(160, 32, 1, 0),
                  ElementsAre(192, 8, 0, 0), ElementsAre(192, 8, 1, 0)));
  EXPECT_TRUE(plan.Corrects(0));
  EXPECT_THAT(DensePositions(plan, 1), ElementsAre(96, 128, 160, 192));
  const BlockLayout& dense = plan.dense_rows(1);
  EXPECT_EQ(dense.Validate(), absl::OkStatus());
  EXPECT_EQ(dense.ListBlocks(dense.list_of[2 * 2]), 3);
  // Lists of 1, 2, 3 and 3 blocks, and of each later tile a block for its rows'
  // visits: 12, 36 and 24 of the 64 that a block's rows would make.
  EXPECT_EQ(plan.blocks(0).computed, (1 + 2 + 3 + 3) * 3 * 2 + 3);
  EXPECT_EQ(plan.blocks(0).allowed, (1 + 2 + 3 + 4) * 3 * 2);
}

TEST(AttentionPlanTest, WhatRowsSkipIsNotComputed) {
  const Part prompt(Phase::kPrefill, 0, 150, 0);
  const Part other(Phase::kPrefill, 0, 64, 30);
  const Part decode(Phase::kDecode, 130, 1, 60);
  AttentionPlan plan({.layers = 2, .heads = 6, .kv_heads = 2});
  const SkipSoftmaxPattern skipping = {DensePattern(), 0.5f};
  const PlannedSlice planned[] = {{&prompt.slice, skipping},
                                  {&other.slice, DensePattern()},
                                  {&decode.slice, skipping}};
  plan.Build(planned);
  // The decode row, three tiles of the first slice, one of the second.
  const BlockLayout& layout = plan.layout(0);
  EXPECT_EQ(layout.Validate(), absl::OkStatus());
  const float some = std::log(0.5f);
  EXPECT_THAT(layout.skip_below, ElementsAre(some, some, some, some, some, some,
                                             some, some, kNoSkip, kNoSkip));
  const int64_t all = (1 + 2 + 3) * 2 * 2;
  EXPECT_EQ(plan.blocks(0).computed, all);
  for (const int layer : {0, 1}) {
    int64_t* const skipped = plan.CountSkipped(layer);
    ASSERT_NE(skipped, nullptr);
    EXPECT_EQ(std::count(skipped, skipped + 10, 0), 10);
    skipped[1] = 3;            // the decode row's three heads, of one block
    skipped[4] = 64 * 3 + 96;  // one and a half
    skipped[7] = 22 * 3 / 3;   // a third
    plan.TakeSkipped(layer);
  }
  EXPECT_EQ(plan.blocks(0).computed, all - 3);  // of 3 2/3
  EXPECT_EQ(plan.blocks(0).allowed, all);
  EXPECT_EQ(plan.blocks(1).computed, plan.blocks(1).allowed);
  EXPECT_EQ(plan.blocks(2).computed, 3 * 2 * 2 - 2);
}

TEST(AttentionPlanTest, NothingIsCountedWhereNothingMaySkip) {
  const Part part(Phase::kPrefill, 0, 150, 0);
  AttentionPlan plan({.layers = 2, .kv_heads = 2});
  const PatternMap map =
      Map(2, 2, {DensePattern(), SkipSoftmaxPattern{DensePattern(), 0.5f}},
          {0, 0, 0, 1});
  const PlannedSlice planned = {.slice = &part.slice, .map = &map};
  plan.Build({&planned, 1});
  EXPECT_EQ(plan.CountSkipped(0), nullptr);
  EXPECT_NE(plan.CountSkipped(1), nullptr);
  EXPECT_EQ(plan.layout(1).skip_below[0], kNoSkip);
  EXPECT_EQ(plan.layout(1).skip_below[1], std::log(0.5f));
  // A threshold of 0 leaves nothing to count either.
  const PlannedSlice never = {&part.slice,
                              SkipSoftmaxPattern{DensePattern(), 0}};
  plan.Build({&never, 1});
  EXPECT_EQ(plan.CountSkipped(1), nullptr);
}

TEST(AttentionPlanTest, AChunkThatBeginsInABlockCorrectsByItsFirstRow) {
  const Part part(Phase::kPrefill, 330, 60, 0);
  AttentionPlan plan({.layers = 1, .kv_heads = 1});
  const PlannedSlice planned = {&part.slice,
                                DeltaPattern{SinkWindowPattern{4, 64}, 32}};
  plan.Build({&planned, 1});
  EXPECT_THAT(DensePositions(plan, 0), ElementsAre(330, 352, 384));
  EXPECT_THAT(Corrections(plan, 0),
              ElementsAre(ElementsAre(0, 22, 0, 0), ElementsAre(22, 32, 0, 0),
                          ElementsAre(54, 6, 0, 0)));
  // Row 67 sees all and so stands in for nothing, row 68 does not.
  for (const int first : {67, 68}) {
    const Part early(Phase::kPrefill, first, 40, 0);
    const PlannedSlice replanned = {&early.slice, planned.pattern};
    plan.Build({&replanned, 1});
    if (first == 67) {
      EXPECT_THAT(DensePositions(plan, 0), ElementsAre(96));
    } else {
      EXPECT_THAT(DensePositions(plan, 0), ElementsAre(68, 96));
    }
  }
}

TEST(AttentionPlanTest, NothingIsCorrectedWhereThePatternLeavesNothingOut) {
  Part prompt(Phase::kPrefill, 0, 256, 0);
  const Part decode(Phase::kDecode, 300, 1, 20);
  prompt.slice.wants_token = true;
  const auto corrected = [&](const DeltaBase& base, int layer) {
    AttentionPlan plan({.layers = 3, .kv_heads = 1});
    const PlannedSlice planned[] = {{&prompt.slice, DeltaPattern{base}},
                                    {&decode.slice, DeltaPattern{base}}};
    plan.Build(planned);
    EXPECT_EQ(plan.Corrects(layer),
              !plan.corrections(layer).empty() &&
                  layer >= SelectionOf(planned[0].pattern).first_layer);
    return DensePositions(plan, layer);
  };
  EXPECT_THAT(corrected(SinkWindowPattern{4, 60}, 0),
              ElementsAre(64, 128, 192));
  // The prompt's end, and all that a window shows.
  EXPECT_THAT(corrected(TriShapePattern{4, 60, 1}, 0), ElementsAre(64, 128));
  EXPECT_THAT(corrected(SinkWindowPattern{100, 93}, 0), ElementsAre());
  EXPECT_THAT(corrected(SinkWindowPattern{100, 92}, 0), ElementsAre(192));
  // Rules choose from the third block on.
  const XAttentionPattern chosen = {.dense_layers = 1};
  EXPECT_THAT(corrected(chosen, 1), ElementsAre(128));
  EXPECT_THAT(corrected(chosen, 2), ElementsAre(128));
  corrected(chosen, 0);
}

TEST(AttentionPlanTest, LayersWhoseWindowHidesAsMuchAreNotCorrected) {
  const Part part(Phase::kPrefill, 128, 128, 0);
  AttentionPlan plan(
      {.layers = 4, .kv_heads = 1, .layer_windows = {0, 69, 70, 71}});
  for (const DeltaBase& base : {DeltaBase(SinkWindowPattern{4, 70}),
                                DeltaBase(SinkWindowPattern{0, 70}),
                                DeltaBase(TriShapePattern{4, 70, 0})}) {
    const auto computed = [&](const PatternSpec& pattern) {
      const PlannedSlice planned = {&part.slice, pattern};
      plan.Build({&planned, 1});
      return plan.blocks(0).computed;
    };
    const int64_t plain = computed(std::visit(
        [](const auto& pattern) { return PatternSpec(pattern); }, base));
    // Two tiles, in layers 0 and 3: a block for each.
    EXPECT_EQ(computed(DeltaPattern{base}), plain + 4);
    EXPECT_THAT(DensePositions(plan, 0), ElementsAre(128, 192));
    EXPECT_THAT(DensePositions(plan, 3), ElementsAre(128, 192));
    for (const int layer : {1, 2}) {
      EXPECT_FALSE(plan.Corrects(layer));
      EXPECT_THAT(DensePositions(plan, layer), ElementsAre());
    }
  }
}

TEST(AttentionPlanTest, HeadsOfAMapAreCorrectedApart) {
  const Part part(Phase::kPrefill, 128, 64, 0);
  AttentionPlan plan(
      {.layers = 3, .kv_heads = 3, .layer_windows = {0, 0, 100}});
  const PatternMap map =
      Map(3, 3,
          {DeltaPattern{SinkWindowPattern{1, 10}, 64}, SinkWindowPattern{1, 10},
           DeltaPattern{XAttentionPattern{.dense_layers = 1}, 32}},
          {0, 1, 2, 0, 1, 2, 0, 1, 2});
  const PlannedSlice planned = {.slice = &part.slice, .map = &map};
  plan.Build({&planned, 1});
  const auto both =
      ElementsAre(ElementsAre(0, 64, 0, 0), ElementsAre(0, 32, 2, 1),
                  ElementsAre(32, 32, 2, 1));
  EXPECT_THAT(Corrections(plan, 0), both);
  EXPECT_THAT(Corrections(plan, 1), both);
  EXPECT_THAT(DensePositions(plan, 1), ElementsAre(128, 160));
  // Scores do not choose where the checkpoint has a window, which is then what
  // dense means.
  EXPECT_THAT(Corrections(plan, 2), ElementsAre(ElementsAre(0, 64, 0, 0)));
  EXPECT_EQ(plan.dense_rows(2).PredicateOf(0)->window_tokens, 100);
}

TEST(AttentionPlanTest, ARowIsAttendedDenselyOnce) {
  Part part(Phase::kPrefill, 128, 64, 0);
  const std::vector<int32_t> rows = {0, 5, 32};
  std::vector<float> recall(3 * 2 * 2);
  part.slice.recall_rows = rows;
  part.slice.recall = absl::MakeSpan(recall);
  AttentionPlan plan({.layers = 2, .heads = 2, .kv_heads = 1});
  const PlannedSlice planned = {&part.slice,
                                DeltaPattern{SinkWindowPattern{1, 10}, 32}};
  plan.Build({&planned, 1});
  EXPECT_THAT(DensePositions(plan, 0), ElementsAre(128, 160, 133));
  EXPECT_EQ(plan.samples().size(), 3);
  EXPECT_EQ(plan.corrections(0).size(), 2);
  // Only those who correct count.
  EXPECT_EQ(plan.blocks(0).computed, 3 * 2 + 1);
}

TEST(AttentionPlanTest, SampledRowsOfEverySliceAndWindowAreAttendedOnce) {
  Part parts[] = {Part(Phase::kPrefill, 128, 64, 0),
                  Part(Phase::kPrefill, 192, 64, 10)};
  const std::vector<int32_t> rows = {0, 5, 32};
  std::vector<float> recall(3 * 2);
  std::vector<PlannedSlice> planned;
  for (Part& part : parts) {
    part.slice.recall_rows = rows;
    part.slice.recall = absl::MakeSpan(recall);
    planned.push_back(
        {&part.slice, DeltaPattern{SinkWindowPattern{1, 10}, 32}});
  }
  // The second layer's window leaves nothing to correct.
  AttentionPlan plan(
      {.layers = 2, .heads = 1, .kv_heads = 1, .layer_windows = {0, 10}});
  plan.Build(planned);
  EXPECT_THAT(DensePositions(plan, 0),
              ElementsAre(128, 160, 133, 192, 224, 197));
  EXPECT_THAT(DensePositions(plan, 1),
              ElementsAre(128, 133, 160, 192, 197, 224));
}

TEST(AttentionPlanTest, CorrectionsCanVisitMoreThanCausalityAllows) {
  Part part(Phase::kPrefill, 0, 704, 0);
  part.slice.wants_token = true;
  AttentionPlan plan({.layers = 2, .kv_heads = 1});
  const PlannedSlice planned = {&part.slice,
                                DeltaPattern{TriShapePattern(), 8}};
  plan.Build({&planned, 1});
  // Keys 8 and 9 ... are hidden from rows 520 ... 575, but no block is: their
  // tile visits all 9, and so do 7 of its rows again, in both layers.
  EXPECT_EQ(plan.blocks(0).allowed, 66 * 2);
  EXPECT_EQ(plan.blocks(0).computed, 66 * 2 + 2);
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
