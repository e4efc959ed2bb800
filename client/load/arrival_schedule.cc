#include "client/load/arrival_schedule.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "client/load/seeded_draw.h"

namespace sparseserve {

ArrivalSchedule ArrivalSchedule::Poisson(Ramp rate, Limits limits,
                                         uint64_t seed) {
  return {PoissonArrivals{std::move(rate), seed, 0, std::nullopt}, limits};
}

ArrivalSchedule ArrivalSchedule::AtTimes(std::vector<absl::Duration> times,
                                         Limits limits) {
  return {FixedArrivals{std::move(times)}, limits};
}

ArrivalSchedule ArrivalSchedule::Closed(Ramp concurrency, Limits limits) {
  return {Places{std::move(concurrency)}, limits};
}

std::optional<absl::Duration> ArrivalSchedule::NextOf(
    PoissonArrivals& arrivals) const {
  if (!arrivals.next.has_value()) {
    // Time changed so that the rate is 1: gaps are exponential there.
    arrivals.area -=
        std::log1p(-SeededDraw(arrivals.seed, DrawOf::kArrival, taken_));
    arrivals.next = arrivals.rate.TimeOfArea(arrivals.area);
  }
  if (*arrivals.next == absl::InfiniteDuration()) return std::nullopt;
  return arrivals.next;
}

std::optional<absl::Duration> ArrivalSchedule::NextOf(
    const FixedArrivals& arrivals) const {
  if (taken_ >= static_cast<int64_t>(arrivals.times.size())) {
    return std::nullopt;
  }
  return arrivals.times[taken_];
}

std::optional<absl::Duration> ArrivalSchedule::NextOf(
    Places& places, absl::Duration now) const {
  if (now >= limits_.duration) return std::nullopt;
  places.Advance(now);
  if (!places.free.empty()) return places.free.front();
  const absl::Duration opens = places.NextOpens();
  // Neither a place now nor ever.
  if (places.count == 0 && opens == absl::InfiniteDuration()) {
    return std::nullopt;
  }
  return opens;
}

absl::Duration ArrivalSchedule::Places::NextOpens() const {
  return concurrency.TimeOfValue(static_cast<double>(count + 1), seen);
}

void ArrivalSchedule::Places::Advance(absl::Duration time) {
  for (absl::Duration opens = NextOpens(); opens <= time; opens = NextOpens()) {
    ++count;
    Free(opens);
  }
  seen = std::max(seen, time);
}

void ArrivalSchedule::Places::Free(absl::Duration since) {
  // Ends may be told out of order.
  free.insert(std::upper_bound(free.begin(), free.end(), since), since);
}

std::optional<absl::Duration> ArrivalSchedule::Next(absl::Duration now) {
  if (taken_ >= limits_.requests) return std::nullopt;
  std::optional<absl::Duration> next;
  if (auto* poisson = std::get_if<PoissonArrivals>(&source_)) {
    next = NextOf(*poisson);
  } else if (auto* fixed = std::get_if<FixedArrivals>(&source_)) {
    next = NextOf(*fixed);
  } else {
    next = NextOf(std::get<Places>(source_), now);
    // What waits for an end may still be sent in time.
    if (next == absl::InfiniteDuration()) return next;
  }
  // However late it is by now: what was meant to be sent is sent.
  if (next.has_value() && *next >= limits_.duration) return std::nullopt;
  return next;
}

void ArrivalSchedule::Take() {
  ++taken_;
  if (auto* poisson = std::get_if<PoissonArrivals>(&source_)) {
    poisson->next.reset();
  } else if (auto* places = std::get_if<Places>(&source_)) {
    if (!places->free.empty()) places->free.pop_front();
  }
}

void ArrivalSchedule::Ended(absl::Duration at) {
  auto* places = std::get_if<Places>(&source_);
  if (places == nullptr) return;
  places->Advance(at);
  // Points of a ramp are seldom whole numbers in binary.
  constexpr double kRounding = 1e-9;
  if (static_cast<double>(places->count) >
      places->concurrency.At(at) + kRounding) {
    --places->count;
    return;
  }
  places->Free(at);
}

}  // namespace sparseserve
