#include "client/load/ramp.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sparseserve {
namespace {

bool ReadValue(absl::string_view text, double& value) {
  return absl::SimpleAtod(text, &value) && std::isfinite(value) && value >= 0;
}

}  // namespace

absl::StatusOr<Ramp> Ramp::Parse(absl::string_view text) {
  double constant = 0;
  if (ReadValue(text, constant)) return Ramp(constant);
  std::vector<Point> points;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<std::string, std::string> halves =
        absl::StrSplit(part, absl::MaxSplits('@', 1));
    Point point;
    if (!ReadValue(halves.first, point.value) ||
        !absl::ParseDuration(halves.second, &point.time) ||
        point.time < absl::ZeroDuration() ||
        point.time == absl::InfiniteDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", part,
          "\" is neither a number of at least 0 nor VALUE@TIME such as 8@60s"));
    }
    if (!points.empty() && point.time <= points.back().time) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is not later than the point before it"));
    }
    points.push_back(point);
  }
  if (points.front().time > absl::ZeroDuration()) {
    points.insert(points.begin(), {absl::ZeroDuration(), points.front().value});
  }
  return Ramp(std::move(points));
}

double Ramp::At(absl::Duration time) const {
  const auto after = std::upper_bound(
      points_.begin(), points_.end(), time,
      [](absl::Duration t, const Point& point) { return t < point.time; });
  if (after == points_.begin()) return after->value;
  const Point& from = *(after - 1);
  if (after == points_.end()) return from.value;
  const double passed =
      absl::FDivDuration(time - from.time, after->time - from.time);
  return from.value + (after->value - from.value) * passed;
}

double Ramp::Max() const {
  double max = 0;
  for (const Point& point : points_) max = std::max(max, point.value);
  return max;
}

absl::Duration Ramp::TimeOfArea(double area) const {
  for (size_t i = 0; i < points_.size(); ++i) {
    const Point& from = points_[i];
    if (i + 1 == points_.size()) {
      if (area == 0) return from.time;
      if (from.value == 0) return absl::InfiniteDuration();
      return from.time + absl::Seconds(area / from.value);
    }
    const Point& to = points_[i + 1];
    const double seconds = absl::ToDoubleSeconds(to.time - from.time);
    const double whole = (from.value + to.value) / 2 * seconds;
    if (area > whole) {
      area -= whole;
      continue;
    }
    // value * t + slope / 2 * t^2 = area, in the form that loses no digits
    // where the slope is small.
    const double slope = (to.value - from.value) / seconds;
    const double root =
        std::sqrt(std::max(from.value * from.value + 2 * slope * area, 0.0));
    const double divisor = from.value + root;
    const double t = divisor == 0 ? 0 : 2 * area / divisor;
    return from.time + absl::Seconds(std::min(t, seconds));
  }
  return absl::InfiniteDuration();
}

absl::Duration Ramp::TimeOfValue(double value, absl::Duration from) const {
  if (At(from) >= value) return from;
  for (size_t i = 0; i + 1 < points_.size(); ++i) {
    const Point& a = points_[i];
    const Point& b = points_[i + 1];
    if (b.time <= from || b.value < value) continue;
    // From below `value` at max(a, from), or the loop had ended before.
    const absl::Duration start = std::max(a.time, from);
    const double low = At(start);
    if (low >= value) return start;
    return start + (b.time - start) * ((value - low) / (b.value - low));
  }
  return absl::InfiniteDuration();
}

}  // namespace sparseserve
