#include "engine/profile/attention_profile.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

AttentionProfile Make(int tokens, int max_blocks) {
  return AttentionProfile(
      {.layers = 2, .heads = 4, .kv_heads = 2, .tokens = tokens},
      {.max_blocks = max_blocks});
}

TEST(AttentionProfileTest, SamplesAllBlocksButTheFirst) {
  EXPECT_THAT(Make(1, 32).blocks(), ElementsAre(0));
  EXPECT_THAT(Make(64, 32).blocks(), ElementsAre(0));
  EXPECT_THAT(Make(65, 32).blocks(), ElementsAre(1));
  EXPECT_THAT(Make(256, 32).blocks(), ElementsAre(1, 2, 3));
  EXPECT_EQ(Make(65, 32).sampled_rows(), 1);
  EXPECT_EQ(Make(250, 32).sampled_rows(), 64 + 64 + 58);
}

TEST(AttentionProfileTest, SpreadsFewBlocksAndKeepsTheLast) {
  EXPECT_THAT(Make(64 * 9, 4).blocks(), ElementsAre(2, 4, 6, 8));
  EXPECT_THAT(Make(64 * 9, 3).blocks(), ElementsAre(2, 5, 8));
  EXPECT_THAT(Make(64 * 9, 1).blocks(), ElementsAre(8));
}

TEST(AttentionProfileTest, BytesGrowWithHeadsAndTokens) {
  const AttentionProfile::Shape shape = {30, 9, 3, 2048};
  // Three floats for each token of each head.
  EXPECT_GE(AttentionProfile::Bytes(shape), 30 * 9 * 2048 * 12);
  EXPECT_LE(AttentionProfile::Bytes(shape), 30 * 9 * (2048 * 12 + 1024));
}

}  // namespace
}  // namespace sparseserve
