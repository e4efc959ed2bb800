#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "server/metrics/metrics_snapshot.h"

namespace sparseserve {

// What of the metrics is true of one moment, as the console shows it. A value.
struct ServiceState {
  struct Memory {
    std::string device, kind;
    double bytes = 0;
  };

  bool ready = false, draining = false;
  double running = 0, waiting = 0;  // requests
  double buffered_bytes = 0;
  double used_pages = 0, cached_pages = 0, free_pages = 0, kv_usage = 0;
  std::vector<Memory> memory;
  std::map<std::string, double> memory_limits;  // bytes, by device
  double resident_bytes = 0, cpu_seconds = 0;
  double start_time_seconds = 0;  // since the Unix epoch
  std::map<std::string, std::string> build, model, cache;
  std::map<std::string, std::string> guard_states;  // by plan
};

// What the server has no series for stays as it is here.
ServiceState ReadState(const MetricsSnapshot& metrics);

}  // namespace sparseserve
