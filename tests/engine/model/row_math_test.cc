#include "engine/model/row_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMax = std::numeric_limits<float>::max();

// Lengths around the width of a vectorised pass.
constexpr int kLengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 100};

std::vector<float> RandomRow(int size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 20);
  std::vector<float> row(size);
  for (float& value : row) value = normal(random);
  return row;
}

TEST(RowMathTest, FindsTheOneValueThatIsNotFinite) {
  for (const int length : kLengths) {
    std::vector<float> row(length, kMax);
    EXPECT_TRUE(AllFinite(row));
    for (const float bad : {kInfinity, -kInfinity, kNan, -kNan}) {
      for (int at = 0; at < length; ++at) {
        row.assign(length, -kMax);
        row[at] = bad;
        EXPECT_FALSE(AllFinite(row)) << bad << " at " << at << "/" << length;
      }
    }
  }
}

TEST(RowMathTest, LargestIsFoundWhereverItLies) {
  for (const int length : kLengths) {
    for (int at = 0; at < length; ++at) {
      std::vector<float> row(length, -kMax);
      row[at] = -3;
      EXPECT_EQ(LargestOf(row), -3);
    }
  }
  EXPECT_EQ(LargestOf(std::vector<float>(40, -kInfinity)), -kInfinity);
}

TEST(RowMathTest, WeightsAreTheExponentialToSinglePrecision) {
  for (const int length : kLengths) {
    for (const float temperature : {0.01f, 0.7f, 1.0f, 30.0f}) {
      const std::vector<float> row = RandomRow(length, length);
      const float largest = LargestOf(row);
      std::vector<float> weights(length);
      const double sum =
          ExpWeights(row, largest, temperature, absl::MakeSpan(weights));
      double wanted_sum = 0;
      for (int i = 0; i < length; ++i) {
        // Rounded as a float before the exponential, as documented.
        const float exponent = (row[i] - largest) / temperature;
        const double wanted = exponent < -87 ? 0 : std::exp(double{exponent});
        EXPECT_NEAR(weights[i], wanted, 3e-7 * wanted) << exponent;
        wanted_sum += wanted;
      }
      EXPECT_NEAR(sum, wanted_sum, 3e-7 * wanted_sum);
    }
  }
}

TEST(RowMathTest, WeightsOfExtremesAreExact) {
  const std::vector<float> row = {5, -kInfinity, 5, -kMax, -200};
  std::vector<float> weights(row.size());
  for (const float temperature :
       {std::numeric_limits<float>::denorm_min(), 1.0f, 2.0f}) {
    EXPECT_EQ(ExpWeights(row, 5, temperature, absl::MakeSpan(weights)), 2);
    EXPECT_EQ(weights, std::vector<float>({1, 0, 1, 0, 0}));
  }
}

}  // namespace
}  // namespace sparseserve
