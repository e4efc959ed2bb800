#include "engine/base/checked_math.h"

#include <cstdint>
#include <limits>
#include <optional>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

TEST(CheckedMathTest, AddsUpToTheLargestSumAndNotBeyond) {
  EXPECT_EQ(CheckedAdd(kMax - 1, 1), kMax);
  EXPECT_EQ(CheckedAdd(kMax, 1), std::nullopt);
  EXPECT_EQ(CheckedAdd(kMax, kMax), std::nullopt);
}

TEST(CheckedMathTest, MultipliesUpToTheLargestProductAndNotBeyond) {
  EXPECT_EQ(CheckedMultiply(uint64_t{1} << 32, (uint64_t{1} << 32) - 1),
            kMax - (uint64_t{1} << 32) + 1);
  EXPECT_EQ(CheckedMultiply(uint64_t{1} << 32, uint64_t{1} << 32),
            std::nullopt);
  EXPECT_EQ(CheckedMultiply(kMax, 0), 0u);
}

TEST(CheckedMathTest, AlignsUpUnlessThatWouldWrap) {
  EXPECT_EQ(CheckedAlignUp(0, 32), 0u);
  EXPECT_EQ(CheckedAlignUp(1, 32), 32u);
  EXPECT_EQ(CheckedAlignUp(32, 32), 32u);
  EXPECT_EQ(CheckedAlignUp(kMax - 31, 32), kMax - 31);
  EXPECT_EQ(CheckedAlignUp(kMax - 30, 32), std::nullopt);
}

}  // namespace
}  // namespace sparseserve
