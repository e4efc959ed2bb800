#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace sparseserve {

// Times in buckets whose width is at most 1/128 of their value, exact below 256
// ns: quantiles are right to 0.8 % however many times there are, in at most
// 60 KiB. One thread.
class LatencyHistogram {
 public:
  // Negative times count as 0.
  void Add(absl::Duration time, int64_t times = 1);

  int64_t count() const { return count_; }
  absl::Duration Mean() const;
  absl::Duration Max() const { return max_; }

  // The least time that at least this share (above 0, at most 1) of all do not
  // exceed, rounded up to the end of its bucket. REQUIRES: count() > 0.
  absl::Duration Quantile(double share) const;

 private:
  std::vector<int64_t> counts_;  // by bucket, as many as were needed
  int64_t count_ = 0;
  absl::Duration sum_;
  absl::Duration max_;
};

}  // namespace sparseserve
