#include "engine/model/philox.h"

#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

// The known answers that the authors publish with their implementation,
// Random123 (kat_vectors, philox 4x32 10).
TEST(PhiloxTest, GivesTheAuthorsKnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                         {0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                         {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, UniformNumbersFillTheUnitIntervalEvenly) {
  constexpr int kCells = 64;
  constexpr int kDraws = 64000;
  std::vector<int> counts(kCells, 0);
  for (uint64_t i = 0; i < kDraws; ++i) {
    const double value = PhiloxUniform(7, i);
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    ++counts[static_cast<int>(value * kCells)];
  }
  double chi_square = 0;
  for (const int count : counts) {
    const double expected = static_cast<double>(kDraws) / kCells;
    chi_square += (count - expected) * (count - expected) / expected;
  }
  // 63 degrees of freedom: above 103.4 once in a thousand.
  EXPECT_LT(chi_square, 103.4);
}

TEST(PhiloxTest, UsesAllBitsOfSeedAndIndex) {
  const double value = PhiloxUniform(1, 1);
  EXPECT_NE(PhiloxUniform(1 | (uint64_t{1} << 63), 1), value);
  EXPECT_NE(PhiloxUniform(1, 1 | (uint64_t{1} << 63)), value);
  EXPECT_NE(PhiloxUniform(2, 1), value);
  EXPECT_NE(PhiloxUniform(1, 2), value);
  EXPECT_EQ(PhiloxUniform(1, 1), value);
}

}  // namespace
}  // namespace sparseserve
