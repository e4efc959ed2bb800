#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "client/load/load_recorder.h"

namespace sparseserve {

// How far a run is. Valid while it is shown.
struct LoadProgress {
  absl::Duration elapsed;
  int64_t sent = 0;
  int in_flight = 0;
  const LoadRecorder& recorder;
};

// Turns progress into what is shown while a run goes on: rates since it was
// last shown, all else since the beginning. One thread.
class ProgressText {
 public:
  // How long the run sends, or how many requests; infinite and 0 if unknown.
  ProgressText(absl::Duration duration, int64_t requests)
      : duration_(duration), requests_(requests) {}

  // Lines for a screen, where they replace each other.
  std::string Lines(const LoadProgress& progress);

  // One line for a log.
  std::string Line(const LoadProgress& progress);

 private:
  struct Rates {
    double requests = 0;
    double tokens = 0;
  };
  Rates TakeRates(const LoadProgress& progress);
  std::string Done(const LoadProgress& progress) const;

  absl::Duration duration_;
  int64_t requests_;
  absl::Duration last_elapsed_;
  int64_t last_ended_ = 0;
  int64_t last_tokens_ = 0;
};

}  // namespace sparseserve
