#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "client/load/ramp.h"

namespace sparseserve {

// When requests are meant to be sent, in time since a run began. An open loop
// follows its times whatever becomes of earlier requests; a closed loop sends
// when one of a number of places is free. One thread; knows no clock.
class ArrivalSchedule {
 public:
  struct Limits {
    // No request is sent at this time or later.
    absl::Duration duration = absl::InfiniteDuration();
    int64_t requests = std::numeric_limits<int64_t>::max();
  };

  // Open loop: independent arrivals at `rate` a second.
  static ArrivalSchedule Poisson(Ramp rate, Limits limits, uint64_t seed);

  // Open loop: at `times`, which do not go back.
  static ArrivalSchedule AtTimes(std::vector<absl::Duration> times,
                                 Limits limits);

  // Closed loop: as many at once as `concurrency` says, rounded down. A place
  // that is too many is given up when its request ends.
  static ArrivalSchedule Closed(Ramp concurrency, Limits limits);

  // When the next request is meant to be sent, as far as is known at `now`:
  // now or earlier if it is due, infinite if a request must end first. Nothing
  // after the last one. `now` does not go back.
  std::optional<absl::Duration> Next(absl::Duration now);

  // The request that Next() told is being sent.
  void Take();

  // A request ended at this time.
  void Ended(absl::Duration at);

 private:
  struct PoissonArrivals {
    Ramp rate;
    uint64_t seed;
    double area = 0;  // of the rate, up to the last arrival
    std::optional<absl::Duration> next;
  };
  struct FixedArrivals {
    std::vector<absl::Duration> times;
  };
  struct Places {
    // When one more place opens; infinite if none does.
    absl::Duration NextOpens() const;
    // Opens what opens up to `time`.
    void Advance(absl::Duration time);
    void Free(absl::Duration since);

    Ramp concurrency;
    int64_t count = 0;
    // Places that open up to this time are in `count`.
    absl::Duration seen = absl::ZeroDuration();
    // Since when each free place is free, ascending.
    std::deque<absl::Duration> free = {};
  };
  using Source = std::variant<PoissonArrivals, FixedArrivals, Places>;

  ArrivalSchedule(Source source, Limits limits)
      : source_(std::move(source)), limits_(limits) {}

  std::optional<absl::Duration> NextOf(PoissonArrivals& arrivals) const;
  std::optional<absl::Duration> NextOf(const FixedArrivals& arrivals) const;
  std::optional<absl::Duration> NextOf(Places& places,
                                       absl::Duration now) const;

  Source source_;
  Limits limits_;
  int64_t taken_ = 0;
};

}  // namespace sparseserve
