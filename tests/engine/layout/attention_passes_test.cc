#include "engine/layout/attention_passes.h"

#include <functional>
#include <string>
#include <vector>

#include "engine/layout/masked_layout_builder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

// Three tokens, each of which sees all, the second in two passes.
AttentionPasses Valid() {
  AttentionPasses passes = {
      .tokens = 3, .heads = 2, .combiner = PassCombiner::kMergeByLse};
  for (const auto& queries :
       {std::vector<int32_t>{2, -1, 1}, std::vector<int32_t>{0, 1}}) {
    AttentionPass pass;
    pass.query_tokens = queries;
    pass.key_tokens = {0, 1, 2};
    pass.heads = {0, 1};
    MaskedLayoutBuilder builder(2, HasToken(pass.key_tokens));
    for (const QueryTile& tile : TilesOf(queries)) {
      builder.BeginList(tile.rows);
      builder.Show({0, tile.rows}, {0, 3});
      const int32_t list = builder.EndList();
      builder.AddTile(tile, {list, list});
    }
    pass.layout = builder.TakeLayout();
    passes.passes.push_back(std::move(pass));
  }
  return passes;
}

// What Validate() says once something was changed.
std::string ErrorOf(const std::function<void(AttentionPasses&)>& change) {
  AttentionPasses passes = Valid();
  change(passes);
  return std::string(passes.Validate().message());
}

TEST(AttentionPassesTest, AreValidAsBuilt) {
  EXPECT_EQ(ErrorOf([](AttentionPasses&) {}), "");
  EXPECT_EQ(Valid().VisitedBlocks(), 4);
}

TEST(AttentionPassesTest, NameWhatIsBroken) {
  EXPECT_THAT(ErrorOf([](auto& p) { p.passes[0].query_tokens[0] = 3; }),
              HasSubstr("query slot 0 names token 3 of 3"));
  EXPECT_THAT(ErrorOf([](auto& p) { p.passes[1].key_tokens[2] = -2; }),
              HasSubstr("key slot 2 names token -2 of 3"));
  EXPECT_THAT(ErrorOf([](auto& p) {
                p.passes[0].groups = {{0, 2, 3}, {0, 1, 3}};
              }),
              HasSubstr("group slot 2 names token 3 of 3"));
  EXPECT_THAT(ErrorOf([](auto& p) {
                p.passes[0].groups = {{0, 2, 2, 3}, {0, 1, 2}};
              }),
              HasSubstr("group 1 is empty"));
  EXPECT_THAT(ErrorOf([](auto& p) {
                p.passes[0].groups = {{0, 2}, {0, 1, 2}};
              }),
              HasSubstr("groups do not hold their 3 tokens"));
  EXPECT_THAT(ErrorOf([](auto& p) {
                p.passes[0].groups = {{0, 1, 3}, {0, 1, 2}};
              }),
              HasSubstr("query slot 0 names token 2 of 2"));
  EXPECT_THAT(ErrorOf([](auto& p) { p.combiner = PassCombiner::kOnly; }),
              HasSubstr("token 1 has two slots in head 0"));
  EXPECT_THAT(ErrorOf([](auto& p) {
                p.passes[0].heads = {1, 0};
              }),
              HasSubstr("head 0 of 2 does not ascend"));
  EXPECT_THAT(ErrorOf([](auto& p) { p.passes[0].heads = {0}; }),
              HasSubstr("2 heads of a layout for 1"));
  EXPECT_THAT(ErrorOf([](auto& p) { p.passes[0].query_tokens.pop_back(); }),
              HasSubstr("has slots 0 ... 2 of 2"));
  EXPECT_THAT(
      ErrorOf([](auto& p) { p.passes[0].layout.partial_blocks[0] = 1; }),
      HasSubstr("block 1 of 1"));
  EXPECT_THAT(ErrorOf([](auto& p) {
                BlockLayout& layout = p.passes[0].layout;
                layout.has_masks = false;
                layout.masks.clear();
              }),
              HasSubstr("a layout without masks"));
}

TEST(AttentionPassesTest, NameBrokenMasks) {
  const auto error = [](const std::function<void(BlockLayout&)>& change) {
    return ErrorOf([&](auto& p) { change(p.passes[0].layout); });
  };
  EXPECT_THAT(error([](auto& l) { l.masks.pop_back(); }),
              HasSubstr("63 words of masks for 1 partial blocks"));
  EXPECT_THAT(error([](auto& l) { l.has_masks = false; }),
              HasSubstr("masks or biases in a layout without masks"));
  EXPECT_THAT(error([](auto& l) { l.masks.assign(64, 0); }),
              HasSubstr("shows no key to any row of tile 0"));
  EXPECT_THAT(error([](auto& l) { l.predicates.resize(1); }),
              HasSubstr("both masks and predicates"));
  EXPECT_THAT(error([](auto& l) { l.partial_bias_of = {0}; }),
              HasSubstr("names bias tile 0 of 0"));
  EXPECT_THAT(error([](auto& l) { l.full_bias_of = {-1}; }),
              HasSubstr("1 and 0 biases for 0 full and 1 partial blocks"));
}

TEST(AttentionPassesTest, TilesLeaveOutSlotsWithoutQueries) {
  std::vector<int32_t> queries(200, -1);
  queries[0] = 5;
  queries[130] = 6;
  const std::vector<QueryTile> tiles = TilesOf(queries);
  ASSERT_EQ(tiles.size(), 2);
  EXPECT_EQ(tiles[0].first_row, 0);
  EXPECT_EQ(tiles[1].first_row, 128);
  EXPECT_EQ(tiles[1].rows, 64);
  EXPECT_EQ(TilesOf(std::vector<int32_t>(70, 0))[1].rows, 6);
  EXPECT_EQ(AlignedSlots(0), 0);
  EXPECT_EQ(AlignedSlots(64), 64);
  EXPECT_EQ(AlignedSlots(65), 128);
}

}  // namespace
}  // namespace sparseserve
