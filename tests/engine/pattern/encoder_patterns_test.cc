#include "engine/pattern/encoder_patterns.h"

#include <string>
#include <vector>

#include "engine/pattern/big_bird_draw.h"
#include "engine/pattern/big_bird_passes.h"
#include "engine/pattern/longformer_passes.h"
#include "engine/pattern/reformer_passes.h"
#include "engine/pattern/swin_passes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const EncoderPattern& pattern) {
  return std::string(CheckEncoderPattern(pattern).message());
}

TEST(EncoderPatternsTest, HaveNames) {
  EXPECT_EQ(EncoderPatternName(LongformerPattern()), "longformer");
  EXPECT_EQ(EncoderPatternName(BigBirdPattern()), "big_bird");
  EXPECT_EQ(EncoderPatternName(SwinPattern()), "swin");
  EXPECT_EQ(EncoderPatternName(ReformerLshPattern()), "reformer_lsh");
  EXPECT_EQ(EncoderPatternName(AxialPattern()), "axial");
  EXPECT_EQ(EncoderPatternName(TokenGraphPattern()), "token_graph");
  EXPECT_EQ(EncoderPatternName(RoutingPattern()), "routing");
  EXPECT_EQ(EncoderPatternName(EtcPattern()), "etc");
  EXPECT_EQ(EncoderPatternName(HTransformerPattern()), "h_transformer");
}

TEST(EncoderPatternsTest, AcceptTheirDefaults) {
  EXPECT_EQ(ErrorOf(LongformerPattern()), "");
  EXPECT_EQ(ErrorOf(BigBirdPattern()), "");
  EXPECT_EQ(ErrorOf(SwinPattern()), "");
  EXPECT_EQ(ErrorOf(ReformerLshPattern()), "");
  EXPECT_EQ(ErrorOf(AxialPattern()), "");
  EXPECT_EQ(ErrorOf(TokenGraphPattern()), "");
  EXPECT_EQ(ErrorOf(RoutingPattern()), "");
  EXPECT_EQ(ErrorOf(EtcPattern()), "");
  EXPECT_EQ(ErrorOf(HTransformerPattern()), "");
}

TEST(EncoderPatternsTest, NameTheParameterThatIsOutOfRange) {
  EXPECT_EQ(ErrorOf(LongformerPattern{.one_sided_window = 1 << 21}),
            "longformer: one_sided_window is 2097152; allowed: 0 to 1048576");
  EXPECT_EQ(ErrorOf(LongformerPattern{.dilations = {2, 0}}),
            "longformer: dilation is 0; allowed: 1 to 1048576");
  EXPECT_EQ(ErrorOf(BigBirdPattern{.block_tokens = 0}),
            "big_bird: block_tokens is 0; allowed: 1 to 1048576");
  EXPECT_EQ(ErrorOf(BigBirdPattern{.random_blocks = -1}),
            "big_bird: random_blocks is -1; allowed: 0 to 1048576");
  EXPECT_EQ(ErrorOf(BigBirdPattern{.extra_tokens = -1}),
            "big_bird: extra_tokens is -1; allowed: 0 to 1048576");
  EXPECT_EQ(ErrorOf(SwinPattern{.window = 33}),
            "swin: window is 33; allowed: 1 to 32");
  EXPECT_EQ(ErrorOf(SwinPattern{.window = 7, .shift = 7}),
            "swin: shift is 7; allowed: 0 to 6");
  EXPECT_EQ(ErrorOf(ReformerLshPattern{.chunk_tokens = 0}),
            "reformer_lsh: chunk_tokens is 0; allowed: 1 to 1048576");
  EXPECT_EQ(ErrorOf(ReformerLshPattern{.chunks_before = -1}),
            "reformer_lsh: chunks_before is -1; allowed: 0 to 64");
  EXPECT_EQ(ErrorOf(ReformerLshPattern{.chunks_after = 65}),
            "reformer_lsh: chunks_after is 65; allowed: 0 to 64");
  EXPECT_EQ(ErrorOf(AxialPattern{.axis = 8}),
            "axial: axis is 8; allowed: 0 to 7");
  EXPECT_EQ(ErrorOf(TokenGraphPattern{.degrees = {3, -1}}),
            "token_graph: degree is -1; allowed: 0 to 1048576");
  EXPECT_EQ(ErrorOf(RoutingPattern{.capacity = 0}),
            "routing: capacity is 0; allowed: 1 to 1048576");
  EXPECT_EQ(ErrorOf(EtcPattern{.radius = -1}),
            "etc: radius is -1; allowed: 0 to 1048576");
  EXPECT_EQ(ErrorOf(EtcPattern{.max_distance = 2048}),
            "etc: max_distance is 2048; allowed: 0 to 2047");
  EXPECT_EQ(ErrorOf(HTransformerPattern{.block_tokens = 0}),
            "h_transformer: block_tokens is 0; allowed: 1 to 1048576");
}

TEST(EncoderPatternsTest, RefuseSequencesThatBigBirdDoesNotFit) {
  const auto error = [](const BigBirdTokens& tokens) {
    return std::string(
        BigBirdPasses({.block_tokens = 4, .random_blocks = 1}, tokens)
            .status()
            .message());
  };
  const std::vector<bool> real(16, true);
  EXPECT_EQ(error({.heads = 1, .is_real = real, .drawn = {3, 0}}), "");
  EXPECT_THAT(error({.heads = 1, .is_real = std::vector<bool>(15, true)}),
              HasSubstr("a sequence of 15 tokens; allowed: a multiple of "
                        "block_tokens, 4, 3 or more of them"));
  EXPECT_THAT(error({.heads = 1, .is_real = std::vector<bool>(8, true)}),
              HasSubstr("a sequence of 8 tokens"));
  EXPECT_THAT(error({.heads = 1, .is_real = {}}),
              HasSubstr("a sequence of 0 tokens"));
  EXPECT_THAT(error({.heads = 2, .is_real = real, .drawn = {1, 1}}),
              HasSubstr("2 drawn blocks; 2 heads of 4 blocks need 4"));
  EXPECT_THAT(error({.heads = 1, .is_real = real, .drawn = {4, 0}}),
              HasSubstr("drawn block 4; allowed: 0 to 3"));
}

TEST(EncoderPatternsTest, RefuseGridsThatSwinDoesNotFit) {
  const auto error = [](const SwinGrid& grid) {
    return std::string(
        SwinPasses({.window = 2, .shift = 1}, grid).status().message());
  };
  const std::vector<float> table(9 * 2);
  EXPECT_EQ(error({.heads = 2, .height = 4, .width = 5, .bias_table = table}),
            "");
  EXPECT_THAT(error({.heads = 2, .height = 0, .width = 5}),
              HasSubstr("a grid of 0 x 5; allowed: sides of 1 to 1048576"));
  EXPECT_THAT(error({.heads = 2, .height = 2048, .width = 1024}),
              HasSubstr("a sequence of 2097152 tokens"));
  EXPECT_THAT(error({.heads = 2, .height = 1, .width = 5, .bias_table = table}),
              HasSubstr("a grid of 1 x 5 is smaller than a window of 2"));
  EXPECT_THAT(error({.heads = 1, .height = 4, .width = 5, .bias_table = table}),
              HasSubstr("a bias table of 18 elements, not 9"));
}

TEST(EncoderPatternsTest, RefuseWhatBigBirdCannotDraw) {
  const auto error = [](const BigBirdPattern& pattern,
                        const BigBirdDraw& draw) {
    return std::string(DrawBigBirdBlocks(pattern, draw).status().message());
  };
  const BigBirdDraw draw = {.heads = 2, .tokens = 512, .most_tokens = 4096};
  EXPECT_EQ(error({.random_blocks = 3}, draw), "");
  EXPECT_THAT(error({.random_blocks = 100}, draw), HasSubstr("100"));
  EXPECT_THAT(error({.block_tokens = 100}, draw),
              HasSubstr("a multiple of block_tokens, 100"));
  EXPECT_THAT(error({}, {.heads = 2, .tokens = 512, .most_tokens = 511}),
              HasSubstr("most_tokens is 511; allowed: 512 to"));
  // Refused before anything of that size is made.
  EXPECT_THAT(error({.block_tokens = 1, .random_blocks = 1 << 20},
                    {.heads = 1024, .tokens = 1 << 20, .most_tokens = 1 << 20}),
              HasSubstr("blocks to draw, for all heads and rows; allowed: "));
}

TEST(EncoderPatternsTest, RefuseSequencesThatReformerDoesNotFit) {
  const auto error = [](const ReformerTokens& tokens) {
    return std::string(
        ReformerLshPasses({.chunk_tokens = 4}, tokens).status().message());
  };
  const std::vector<bool> real(8, true);
  EXPECT_EQ(error({.heads = 1,
                   .is_real = real,
                   .buckets = std::vector<int32_t>(8, -7)}),
            "");
  EXPECT_EQ(error({.heads = 1, .is_real = {true, true, true}}), "");
  EXPECT_THAT(error({.heads = 1, .is_real = std::vector<bool>(6, true)}),
              HasSubstr("a sequence of 6 tokens; allowed: up to chunk_tokens, "
                        "4, or a multiple of it"));
  EXPECT_THAT(error({.heads = 1, .rounds = 0, .is_real = real}),
              HasSubstr("0 rounds; allowed: 1 to 131072 of 8 tokens"));
  EXPECT_THAT(error({.heads = 1, .rounds = 2, .is_real = real}),
              HasSubstr("0 buckets, not 16"));
}

// Each number within its range, and the memory of their product is not there to
// be had.
TEST(EncoderPatternsTest, RefusePassesThatTakeFarTooMuchMemory) {
  const auto error = [](const auto& passes) {
    return std::string(passes.status().message());
  };
  const auto real = [](int64_t tokens) {
    return std::vector<bool>(tokens, true);
  };
  EXPECT_EQ(error(LongformerPasses({.one_sided_window = 1 << 20},
                                   {.heads = 1, .is_real = real(1 << 17)})),
            "longformer: 4194304 blocks to list, over all tiles; allowed: "
            "1048576");
  EXPECT_EQ(
      error(LongformerPasses({}, {.heads = 1024, .is_real = real(1 << 15)})),
      "longformer: 33554432 slots of queries, over all heads; allowed: "
      "16777216");
  EXPECT_THAT(error(BigBirdPasses({.block_tokens = 1 << 15, .random_blocks = 0},
                                  {.heads = 1, .is_real = real(1 << 17)})),
              HasSubstr("blocks to list, over all tiles; allowed: 1048576"));
  EXPECT_EQ(error(SwinPasses({.window = 1}, {.heads = 1,
                                             .height = 1 << 10,
                                             .width = 1 << 10,
                                             .bias_table = {0}})),
            "swin: 67108864 slots of queries, over all heads; allowed: "
            "16777216");
  EXPECT_EQ(error(SwinPasses({.window = 32, .shift = 1},
                             {.heads = 65,
                              .height = 64,
                              .width = 64,
                              .bias_table = std::vector<float>(63 * 63 * 65)})),
            "swin: 66560 blocks of biases, over all heads; allowed: 65536");
  EXPECT_EQ(
      error(ReformerLshPasses({.chunk_tokens = 1 << 19},
                              {.heads = 1,
                               .is_real = real(1 << 20),
                               .buckets = std::vector<int32_t>(1 << 20)})),
      "reformer_lsh: 268435456 blocks to list, over all tiles; allowed: "
      "1048576");
  EXPECT_THAT(error(ReformerLshPasses({.chunk_tokens = 1 << 20},
                                      {.heads = 1, .is_real = real(1 << 20)})),
              HasSubstr("268435456 blocks to list"));
  EXPECT_EQ(
      error(ReformerLshPasses({.chunk_tokens = 1 << 13, .chunks_after = 1},
                              {.heads = 2,
                               .is_real = real(1 << 14),
                               .buckets = std::vector<int32_t>(1 << 15)})),
      "reformer_lsh: 131072 blocks of biases, over all heads; allowed: 65536");
}

}  // namespace
}  // namespace sparseserve
