#pragma once

#include <string>

#include "absl/time/time.h"
#include "server/console/service_history.h"
#include "server/console/service_state.h"
#include "server/console/service_totals.h"

namespace sparseserve {

// What the page and `sparseserve top` show, as one JSON object; README.md lists
// its fields. Everything is of the same snapshot of the metrics, `state` and
// `totals`, but for what `history` tells of the time before. `now` is in the
// history's time, `wall_time` the time of day.
std::string ConsoleJson(const ServiceState& state, const ServiceTotals& totals,
                        const ServiceHistory& history, absl::Time now,
                        absl::Time wall_time);

}  // namespace sparseserve
