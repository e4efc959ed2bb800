#pragma once

#include <algorithm>

namespace sparseserve {

// How full a server is, 0 to 1, for clients that weigh replicas by it (ORCA's
// application_utilization): whichever is scarcest of KV pages, places in the
// batch and places in the queue. A preempted request waits beyond the queue's
// limit, so what is above 1 counts as 1.
inline double ApplicationUtilization(double kv_usage, double batch_occupancy,
                                     double queue_occupancy) {
  return std::clamp(std::max({kv_usage, batch_occupancy, queue_occupancy}), 0.0,
                    1.0);
}

}  // namespace sparseserve
