#pragma once

#include <deque>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/console/service_state.h"
#include "server/console/service_totals.h"

namespace sparseserve {

// What the metrics said lately: the totals of the last minute, figures of the
// last five, and the latest fallbacks. Bounded. One thread.
class ServiceHistory {
 public:
  // The figures of one moment; NaN where nothing was measured.
  struct Point {
    double running = 0, waiting = 0;
    // Over the last five seconds.
    double output_tokens_per_second = 0, prompt_tokens_per_second = 0;
    double output_tokens_per_step = 0, prompt_tokens_per_step = 0;
    // Over the last minute.
    double first_token_p50 = 0, first_token_p95 = 0;
  };
  struct Fallback {
    absl::Time time;  // at most a second late
    std::string phase, reason;
    double requests = 0;
  };
  // What was added within `length`, which is a minute at most.
  struct Period {
    absl::Duration length;
    ServiceTotals added;
  };

  static constexpr int kPoints = 301;

  // Call once a second, in order of time.
  void Add(absl::Time now, const ServiceState& state, ServiceTotals totals);

  // Since a minute before `now`, or since the first Add(), to `totals`.
  Period LastMinute(absl::Time now, const ServiceTotals& totals) const;

  const std::deque<Point>& points() const { return points_; }  // oldest first
  const std::deque<Fallback>& fallbacks() const { return fallbacks_; }

 private:
  struct Moment {
    absl::Time time;
    ServiceTotals totals;
  };

  // The latest moment that is at least `age` old, or the oldest there is.
  const Moment& Before(absl::Time now, absl::Duration age) const;
  void AddPoint(absl::Time now, const ServiceState& state,
                const ServiceTotals& totals);
  void AddFallbacks(absl::Time now, const ServiceTotals& totals);

  std::deque<Moment> minute_;  // not empty after the first Add()
  std::deque<Point> points_;
  std::deque<Fallback> fallbacks_;  // the latest first
};

}  // namespace sparseserve
