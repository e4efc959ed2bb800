#include "engine/profile/dense_distribution.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// In double precision, by the formula.
double Divergence(const std::vector<float>& dense,
                  const std::vector<float>& other) {
  const auto log_probabilities = [](const std::vector<float>& logits) {
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit});
    std::vector<double> logs;
    for (const float logit : logits) logs.push_back(logit - std::log(sum));
    return logs;
  };
  const std::vector<double> p = log_probabilities(dense);
  const std::vector<double> q = log_probabilities(other);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

TEST(DenseDistributionTest, DivergenceIsThatOfTheFormula) {
  const std::vector<float> dense = {0, 1, 2, 3, -4, 0.5f};
  const std::vector<float> other = {1, 0, 2.5f, 2, -3, 0};
  const DenseDistribution distribution(dense);
  const RowDivergence row = distribution.Compare(other);
  EXPECT_NEAR(row.divergence, Divergence(dense, other), 1e-6);
  EXPECT_GT(row.divergence, 0.1);
  EXPECT_FALSE(row.is_top_same);
  EXPECT_TRUE(distribution.Compare(dense).is_top_same);
}

TEST(DenseDistributionTest, SmallDivergencesAreNotLostInRounding) {
  std::vector<float> dense(50'000);
  for (size_t i = 0; i < dense.size(); ++i) {
    dense[i] = 20 + 5 * std::sin(static_cast<float>(i) * 1.7f);
  }
  std::vector<float> other = dense;
  for (size_t i = 0; i < other.size(); i += 2) other[i] += 0.004f;
  const double expected = Divergence(dense, other);
  EXPECT_NEAR(DenseDistribution(dense).Compare(other).divergence, expected,
              0.05 * expected);
}

TEST(DenseDistributionTest, AShiftOfAllLogitsChangesNothing) {
  const std::vector<float> dense = {700, 701, 650};
  const std::vector<float> other = {-300, -299, -350};
  EXPECT_NEAR(DenseDistribution(dense).Compare(other).divergence, 0, 1e-6);
}

TEST(DenseDistributionTest, LogProbabilitiesAreOfTheSoftmax) {
  const std::vector<float> logits = {0, std::log(3.0f)};
  EXPECT_NEAR(DenseDistribution(logits).LogProbability(1), std::log(0.75),
              1e-6);
  const RowDivergence row = DenseDistribution({0, 9}).Compare(logits);
  EXPECT_NEAR(logits[0] - row.log_sum, std::log(0.25), 1e-6);
}

}  // namespace
}  // namespace sparseserve
