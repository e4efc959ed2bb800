#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

namespace sparseserve::testing {

// What a comparison with an oracle looked at: a cell of the table that
// tests/oracle_table.py makes of the lines that these print when they end.
class OracleReport {
 public:
  // `what` is one of
  //   module    a rule in double precision, and the module that it describes
  //   sets      the keys or blocks that a plan shows, and the rule's
  //   superset  likewise, of a plan that may show more
  //   f32       a backend's output on a plan, and the rule's (or the plan's in
  //             double precision)
  //   bf16      likewise, with keys and values in bf16
  //   logits    an engine's, and those of a reference that knows the rule
  OracleReport(std::string system, std::string what);
  ~OracleReport();
  OracleReport(const OracleReport&) = delete;

  void AddCase() { ++cases_; }
  // A row's error; sets that are equal have none. NaN counts as infinite.
  void AddRow(double error = 0) { AddRows(1, error); }
  // The worst of so many.
  void AddRows(int64_t rows, double error) {
    rows_ += rows;
    worst_ = std::max(worst_, std::isnan(error) ? HUGE_VAL : error);
  }
  int64_t rows() const { return rows_; }

 private:
  const std::string system_;
  const std::string what_;
  int64_t cases_ = 0;
  int64_t rows_ = 0;
  double worst_ = 0;
};

}  // namespace sparseserve::testing
