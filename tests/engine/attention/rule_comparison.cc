#include "tests/engine/attention/rule_comparison.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"

namespace sparseserve {
namespace {

using testing::AttendedRow;

bool IsZero(absl::Span<const double> row) {
  return std::all_of(row.begin(), row.end(),
                     [](double value) { return value == 0; });
}

}  // namespace

RuleComparison::RuleComparison(std::string system)
    : system_(std::move(system)),
      exact_(system_, "f32"),
      rounded_(system_, "bf16") {
  for (const std::string& path : AttentionPathsToTest()) {
    paths_.push_back({path, CreateBackendUnderTest(path)});
  }
}

RuleComparison::~RuleComparison() { EXPECT_GT(exact_.rows(), 0); }

void RuleComparison::Compare(const std::string& name,
                             const AttentionPasses& passes,
                             const std::vector<HeadRows>& projections,
                             double scale, const Rule& rule) {
  ASSERT_EQ(passes.Validate(), absl::OkStatus()) << name;
  Wanted wanted(passes.heads);
  for (int32_t head = 0; head < passes.heads; ++head) {
    for (int64_t row = 0; row < passes.tokens; ++row) {
      wanted[head].push_back(rule(head, row));
    }
  }
  exact_.AddCase();
  rounded_.AddCase();
  for (const Path& path : paths_) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(system_ + ", " + name + ", " + path.name);
      CompareRows(Attend(*path.backend, passes, projections, scale, dtype),
                  wanted, dtype);
    }
  }
}

void RuleComparison::CompareRows(const AttendedPasses& found,
                                 const Wanted& wanted, DType dtype) {
  double difference = 0, size = 0;
  for (size_t h = 0; h < wanted.size(); ++h) {
    for (size_t r = 0; r < wanted[h].size(); ++r) {
      const AttendedRow& row = wanted[h][r];
      const absl::Span<const double> output = found.output[h][r];
      if (IsZero(row.output)) {
        EXPECT_TRUE(IsZero(output)) << "head " << h << " row " << r;
      } else if (dtype == DType::kF32) {
        const double error = RowError(output, row.output);
        EXPECT_LE(error, 1e-5) << "head " << h << " row " << r;
        exact_.AddRow(error);
      }
      if (dtype == DType::kF32 && row.lse == -INFINITY) {
        EXPECT_EQ(found.lse[h][r], row.lse) << "head " << h << " row " << r;
      } else if (dtype == DType::kF32) {
        EXPECT_NEAR(found.lse[h][r], row.lse,
                    1e-5 * std::max(1.0, std::abs(row.lse)))
            << "head " << h << " row " << r;
      }
      for (size_t c = 0; c < row.output.size(); ++c) {
        difference += std::pow(output[c] - row.output[c], 2);
        size += std::pow(row.output[c], 2);
      }
    }
  }
  if (dtype == DType::kF32 || size == 0) return;
  const double rounded = std::sqrt(difference / size);
  EXPECT_LE(rounded, 2e-2);
  rounded_.AddRow(rounded);
}

std::vector<bool> RealTokens(int64_t tokens, int64_t left, int64_t right) {
  std::vector<bool> real(tokens, true);
  std::fill_n(real.begin(), left, false);
  std::fill_n(real.rbegin(), right, false);
  return real;
}

}  // namespace sparseserve
