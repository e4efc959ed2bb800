#pragma once

#include <functional>
#include <string_view>

#include "absl/time/time.h"

namespace sparseserve {

struct LoadTimes {
  absl::Duration read;     // until the first weight
  absl::Duration convert;  // weights
  absl::Duration warmup;   // until the model can run
};

// Tells the stages of loading a model apart by what Engine::Options::progress
// is called with. One thread.
class LoadStopwatch {
 public:
  // `seconds` is monotonic; loading begins now.
  explicit LoadStopwatch(std::function<double()> seconds);

  // As Engine::Options::progress.
  void Progress(std::string_view stage, double done);
  // Loading ends now. What was never reported took no time.
  LoadTimes Stop() const;

 private:
  const std::function<double()> seconds_;
  double begin_ = 0;
  double convert_begin_ = 0;
  double convert_end_ = 0;
  bool converts_ = false;
};

}  // namespace sparseserve
