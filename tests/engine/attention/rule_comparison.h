#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/engine/attention/attended_passes.h"
#include "tests/testing/oracle_report.h"

namespace sparseserve {

// Compares what backends make of a system's passes, on every path of this
// machine and with keys and values in either dtype, with its rule in double
// precision: to 1e-5 of each row's length in floats, to 2e-2 over all rows of a
// case in bf16, since rounding shows in a row as it lies. Reports the worst.
class RuleComparison {
 public:
  explicit RuleComparison(std::string system);
  ~RuleComparison();

  // What is wanted of a head's row; zeros and an LSE of minus infinity where
  // nothing is.
  using Rule = std::function<testing::AttendedRow(int32_t head, int64_t row)>;
  void Compare(const std::string& name, const AttentionPasses& passes,
               const std::vector<HeadRows>& projections, double scale,
               const Rule& rule);

 private:
  struct Path {
    std::string name;
    std::unique_ptr<Backend> backend;
  };
  using Wanted = std::vector<std::vector<testing::AttendedRow>>;

  void CompareRows(const AttendedPasses& found, const Wanted& wanted,
                   DType dtype);

  const std::string system_;
  std::vector<Path> paths_;
  testing::OracleReport exact_;
  testing::OracleReport rounded_;
};

// Whether a token is real: all but so many before and behind the others.
std::vector<bool> RealTokens(int64_t tokens, int64_t left, int64_t right);

}  // namespace sparseserve
