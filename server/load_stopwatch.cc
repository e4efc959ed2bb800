#include "server/load_stopwatch.h"

#include <utility>

namespace sparseserve {

LoadStopwatch::LoadStopwatch(std::function<double()> seconds)
    : seconds_(std::move(seconds)), begin_(seconds_()) {
  convert_begin_ = convert_end_ = begin_;
}

void LoadStopwatch::Progress(std::string_view stage, double /*done*/) {
  if (stage != "weights") return;
  convert_end_ = seconds_();
  if (!converts_) convert_begin_ = convert_end_;
  converts_ = true;
}

LoadTimes LoadStopwatch::Stop() const {
  return {.read = absl::Seconds(convert_begin_ - begin_),
          .convert = absl::Seconds(convert_end_ - convert_begin_),
          .warmup = absl::Seconds(seconds_() - convert_end_)};
}

}  // namespace sparseserve
