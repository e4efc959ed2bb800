#include "tests/testing/oracle_report.h"

#include <iostream>
#include <utility>

namespace sparseserve::testing {

OracleReport::OracleReport(std::string system, std::string what)
    : system_(std::move(system)), what_(std::move(what)) {}

OracleReport::~OracleReport() {
  if (rows_ == 0) return;  // of a path or a system without such a comparison
  std::cout << "oracle|" << system_ << "|" << what_ << "|" << cases_ << "|"
            << rows_ << "|" << worst_ << std::endl;
}

}  // namespace sparseserve::testing
