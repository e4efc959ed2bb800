#pragma once

#include <functional>

namespace sparseserve {

// Splits a step's time between its stages with a borrowed stopwatch (monotonic
// seconds, may be empty: then every time is 0).
class StageClock {
 public:
  explicit StageClock(const std::function<double()>& stopwatch)
      : stopwatch_(stopwatch), start_(Now()), lap_(start_) {}

  // Adds the time since the last lap (or the start) to `stage`.
  void Lap(double& stage) {
    const double now = Now();
    stage += now - lap_;
    lap_ = now;
  }
  double SinceStart() const { return Now() - start_; }

 private:
  double Now() const { return stopwatch_ ? stopwatch_() : 0.0; }

  const std::function<double()>& stopwatch_;
  double start_;
  double lap_;
};

}  // namespace sparseserve
