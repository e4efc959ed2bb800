#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "client/load/arrival_schedule.h"
#include "client/load/request_plan.h"

namespace sparseserve {

// Which request to send and which to cancel, and when. Follows the schedule
// whatever the server does: a request that is due is sent however many are in
// flight and however late it is. One thread; knows no clock: times are since
// the run began and do not go back.
class LoadRun {
 public:
  // Borrows `plan`.
  LoadRun(ArrivalSchedule schedule, const RequestPlan& plan)
      : schedule_(std::move(schedule)), plan_(plan) {}

  // The next request to be sent at `now`, if one is due; ask until none is.
  std::optional<PlannedRequest> TakeDue(absl::Duration now);

  // Indices of requests in flight to be cancelled at `now`, each told once.
  std::vector<int64_t> TakeCancels(absl::Duration now);

  // When to ask again if nothing ends before; infinite: not before an end.
  absl::Duration NextTime(absl::Duration now);

  // Request `index` ended. Returns what was planned of it.
  PlannedRequest Ended(int64_t index, absl::Duration at);

  // Sends no more.
  void Stop() { stopped_ = true; }

  // Whether all is sent; in flight may be some.
  bool AllSent(absl::Duration now);

  int64_t sent() const { return sent_; }
  int in_flight() const { return static_cast<int>(in_flight_.size()); }
  const std::map<int64_t, PlannedRequest>& requests_in_flight() const {
    return in_flight_;
  }

 private:
  ArrivalSchedule schedule_;
  const RequestPlan& plan_;
  bool stopped_ = false;
  int64_t sent_ = 0;
  std::map<int64_t, PlannedRequest> in_flight_;
  // When to cancel which.
  std::set<std::pair<absl::Duration, int64_t>> cancels_;
};

}  // namespace sparseserve
