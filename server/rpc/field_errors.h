#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/rpc/status_details.h"

namespace sparseserve {

// Gathers everything that is wrong with a request, so that its sender learns it
// at once. Keeps the first few and counts the rest: its size does not follow
// the request's.
class FieldErrors {
 public:
  // `requirement` completes "must be ...".
  void Add(std::string_view field, std::string_view value,
           std::string_view requirement);

  // Add unless low <= value <= high; NaN never is.
  void CheckRange(std::string_view field, int64_t value, int64_t low,
                  int64_t high);
  void CheckRange(std::string_view field, double value, double low,
                  double high);

  bool empty() const { return found_ == 0; }
  int found() const { return found_; }
  const std::vector<FieldViolation>& violations() const { return violations_; }

  // OK if empty, else INVALID_ARGUMENT naming all.
  absl::Status ToStatus() const;

 private:
  std::vector<FieldViolation> violations_;
  int found_ = 0;
};

}  // namespace sparseserve
