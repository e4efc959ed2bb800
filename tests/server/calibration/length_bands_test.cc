#include "server/calibration/length_bands.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LengthBandsTest, BandsLieBetweenBorders) {
  const auto bands = BandsBetween({128, 256, 1024}, 1024);
  ASSERT_TRUE(bands.ok()) << bands.status();
  ASSERT_EQ(bands->size(), 2);
  EXPECT_EQ((*bands)[0].min_tokens(), 129);
  EXPECT_EQ((*bands)[0].max_tokens(), 256);
  EXPECT_EQ((*bands)[1].min_tokens(), 257);
  EXPECT_EQ((*bands)[1].max_tokens(), 1024);
  EXPECT_EQ((*bands)[1].blocks(), 12);
  EXPECT_EQ((*BandsBetween({0, 64}, 1024))[0].min_tokens(), 1);
}

TEST(LengthBandsTest, BordersThatCannotBeAreNamed) {
  struct Row {
    std::vector<int> borders;
    const char* message;
  };
  const std::vector<Row> table = {
      {{}, "0 lengths"},
      {{128}, "1 lengths"},
      {{128, 130}, "130, must be a multiple of 64 from 192 to 1024"},
      {{128, 128}, "128, must be"},
      {{-64, 128}, "-64, must be a multiple of 64 from 0"},
      {{128, 1088}, "1088, must be a multiple of 64 from 192 to 1024"},
  };
  for (const Row& row : table) {
    const auto bands = BandsBetween(row.borders, 1024);
    EXPECT_TRUE(absl::IsInvalidArgument(bands.status())) << row.message;
    EXPECT_THAT(std::string(bands.status().message()), HasSubstr(row.message));
  }
}

TEST(LengthBandsTest, OneBlockOfEachPartIsDrawn) {
  const std::vector<LengthBand> bands = *BandsBetween({0, 640, 1920}, 2048);
  for (int text = 0; text < 50; ++text) {
    const auto drawn = DrawBlocks(bands, 4, /*seed=*/9, text);
    ASSERT_EQ(drawn.size(), 2);
    for (size_t band = 0; band < 2; ++band) {
      ASSERT_EQ(drawn[band].size(), 4);
      for (int part = 0; part < 4; ++part) {
        const int blocks = bands[band].blocks();
        EXPECT_GE(drawn[band][part],
                  bands[band].first_block + part * blocks / 4);
        EXPECT_LT(drawn[band][part],
                  bands[band].first_block + (part + 1) * blocks / 4);
      }
    }
    EXPECT_EQ(drawn, DrawBlocks(bands, 4, 9, text));
  }
  EXPECT_NE(DrawBlocks(bands, 4, 9, 0), DrawBlocks(bands, 4, 9, 1));
  EXPECT_NE(DrawBlocks(bands, 4, 9, 0), DrawBlocks(bands, 4, 8, 0));
}

TEST(LengthBandsTest, ShortBandsAreDrawnWhole) {
  EXPECT_THAT(DrawBlocks(*BandsBetween({64, 192}, 2048), 4, 1, 0),
              ElementsAre(ElementsAre(1, 2)));
}

}  // namespace
}  // namespace sparseserve
