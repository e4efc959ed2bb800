#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sparseserve {

// A number that changes with the time since a run began: linear between points,
// constant before the first and after the last. A rate of requests a second, or
// a number of requests at once. Immutable.
class Ramp {
 public:
  // "4", or points "VALUE@TIME,..." with ascending times such as
  // "1@0s,8@60s". INVALID_ARGUMENT names what cannot be read; values are 0 or
  // more and finite.
  static absl::StatusOr<Ramp> Parse(absl::string_view text);

  explicit Ramp(double value) : points_({{absl::ZeroDuration(), value}}) {}

  double At(absl::Duration time) const;
  double Max() const;

  // When the integral over seconds, from the start, reaches `area` >= 0;
  // infinite if it never does.
  absl::Duration TimeOfArea(double area) const;

  // The first time at or after `from` with a value of at least `value`;
  // infinite if there is none.
  absl::Duration TimeOfValue(double value, absl::Duration from) const;

 private:
  struct Point {
    absl::Duration time;
    double value;
  };
  explicit Ramp(std::vector<Point> points) : points_(std::move(points)) {}

  // At least one, ascending in time, the first at 0.
  std::vector<Point> points_;
};

}  // namespace sparseserve
