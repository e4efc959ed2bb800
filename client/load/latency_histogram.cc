#include "client/load/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sparseserve {
namespace {

// A bucket keeps the first 8 bits of a number of nanoseconds: below 256 each
// number has its own, above there are 128 for each power of two.
constexpr int kBits = 8;
constexpr size_t kHalf = size_t{1} << (kBits - 1);

size_t BucketOf(uint64_t nanoseconds) {
  const int shift =
      std::max(static_cast<int>(std::bit_width(nanoseconds)) - kBits, 0);
  return static_cast<size_t>(shift) * kHalf + (nanoseconds >> shift);
}

// The largest number in it.
uint64_t EndOf(size_t bucket) {
  if (bucket < 2 * kHalf) return bucket;
  const size_t shift = bucket / kHalf - 1;
  return ((bucket - shift * kHalf + 1) << shift) - 1;
}

}  // namespace

void LatencyHistogram::Add(absl::Duration time, int64_t times) {
  time = std::max(time, absl::ZeroDuration());
  const size_t bucket =
      BucketOf(static_cast<uint64_t>(absl::ToInt64Nanoseconds(time)));
  if (bucket >= counts_.size()) counts_.resize(bucket + 1);
  counts_[bucket] += times;
  count_ += times;
  sum_ += time * times;
  max_ = std::max(max_, time);
}

absl::Duration LatencyHistogram::Mean() const {
  return count_ == 0 ? absl::ZeroDuration() : sum_ / count_;
}

absl::Duration LatencyHistogram::Quantile(double share) const {
  const auto rank = std::clamp<int64_t>(
      static_cast<int64_t>(std::ceil(share * static_cast<double>(count_))), 1,
      count_);
  int64_t seen = 0;
  for (size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    seen += counts_[bucket];
    if (seen < rank) continue;
    return std::min(absl::Nanoseconds(static_cast<int64_t>(EndOf(bucket))),
                    max_);
  }
  return max_;
}

}  // namespace sparseserve
