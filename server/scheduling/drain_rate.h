#pragma once

#include <algorithm>
#include <cmath>

#include "absl/time/time.h"

namespace sparseserve {

// How fast something goes away: events a second, those of the last half minute
// counting most. Reads no clock; times must not go back.
class DrainRate {
 public:
  static constexpr absl::Duration kMemory = absl::Seconds(30);

  void Count(double amount, absl::Time now) {
    Fade(now);
    amount_ += amount;
  }

  // 0 if nothing went away yet.
  double PerSecond(absl::Time now) const {
    if (amount_ == 0) return 0;
    const double faded = amount_ * Kept(now - last_);
    // What fades with time constant T holds T times the rate, less before.
    const absl::Duration seen = std::max(now - first_, absl::Seconds(1));
    return faded / (absl::ToDoubleSeconds(kMemory) * (1 - Kept(seen)));
  }

 private:
  static double Kept(absl::Duration passed) {
    return std::exp(-absl::FDivDuration(passed, kMemory));
  }
  void Fade(absl::Time now) {
    if (amount_ == 0) first_ = now;
    amount_ *= Kept(now - last_);
    last_ = now;
  }

  double amount_ = 0;
  absl::Time first_;
  absl::Time last_;
};

}  // namespace sparseserve
