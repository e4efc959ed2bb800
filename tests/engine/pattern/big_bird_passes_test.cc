#include "engine/pattern/big_bird_passes.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pass_keys.h"

namespace sparseserve {
namespace {

using testing::BigBirdEtcRule;
using testing::DifferenceFromRule;

TEST(BigBirdPassesTest, ShowWhatTheRuleShowsWithExtraTokens) {
  testing::OracleReport report("big_bird_etc", "sets");
  std::mt19937 random(4);
  for (const int block : {1, 5, 16, 64, 65}) {
    for (const int blocks : {3, 4, 9}) {
      for (const int extra : {0, 1, 3, 64, 70}) {
        const int count = block * blocks;
        BigBirdTokens tokens = {.heads = 2,
                                .is_real = std::vector<bool>(count, true)};
        for (int i = 0; i < count / 4; ++i) {
          tokens.is_real[extra % 2 == 0 ? i : count - 1 - i] = false;
        }
        BigBirdEtcRule rules[2];
        for (BigBirdEtcRule& rule : rules) {
          rule.extra = extra;
          rule.rest = {.block = block, .real = tokens.is_real};
          for (int row = 1; row < blocks - 1; ++row) {
            rule.rest.random_blocks.emplace_back();
            for (int i = 0; i < 2; ++i) {
              tokens.drawn.push_back(static_cast<int32_t>(random() % blocks));
              rule.rest.random_blocks.back().push_back(tokens.drawn.back());
            }
          }
        }
        std::vector<bool> real(extra, true);
        real.insert(real.end(), tokens.is_real.begin(), tokens.is_real.end());
        const AttentionPasses passes = BigBirdPasses({.block_tokens = block,
                                                      .random_blocks = 2,
                                                      .extra_tokens = extra},
                                                     tokens)
                                           .value();
        ASSERT_EQ(passes.Validate(), absl::OkStatus());
        report.AddCase();
        for (int32_t head = 0; head < 2; ++head) {
          report.AddRows(static_cast<int64_t>(real.size()), 0);
          EXPECT_EQ(DifferenceFromRule(
                        passes, head, real,
                        [&](int64_t row) { return rules[head].Keys(row); }),
                    "")
              << blocks << " blocks of " << block << ", " << extra << " extra";
        }
      }
    }
  }
}

// As published checkpoints are used, and with smaller blocks that fill whole
// tiles: by the size that is asked for before anything is built, which must not
// count blocks that cannot be there.
TEST(BigBirdPassesTest, TakeTheSizesOfEncoders) {
  for (const int block : {64, 32, 16}) {
    constexpr int kTokens = 8192, kHeads = 16, kDrawn = 3;
    // All alike, so that the test is quick; the size is that of any.
    const std::vector<int32_t> drawn(kHeads * (kTokens / block - 2) * kDrawn);
    EXPECT_EQ(BigBirdPasses({.block_tokens = block, .random_blocks = kDrawn},
                            {.heads = kHeads,
                             .is_real = std::vector<bool>(kTokens, true),
                             .drawn = drawn})
                  .status(),
              absl::OkStatus())
        << "blocks of " << block;
  }
}

TEST(BigBirdPassesTest, RefuseMoreExtraTokensThanASequenceMayHave) {
  EXPECT_EQ(
      BigBirdPasses(
          {.block_tokens = 1, .random_blocks = 0, .extra_tokens = 1 << 20},
          {.heads = 1, .is_real = std::vector<bool>(3, true)})
          .status()
          .message(),
      "big_bird: a sequence of 1048579 tokens; allowed: 1 to 1048576");
  EXPECT_EQ(
      BigBirdPasses(
          {.block_tokens = 64, .random_blocks = 0, .extra_tokens = 1 << 17},
          {.heads = 1, .is_real = std::vector<bool>(256, true)})
          .status()
          .message(),
      "big_bird: 4210712 blocks to list, over all tiles; allowed: "
      "1048576");
}

}  // namespace
}  // namespace sparseserve
