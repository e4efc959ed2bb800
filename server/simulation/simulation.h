#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/simulation/picker.h"
#include "server/simulation/replica.h"
#include "server/simulation/simulated_class.h"
#include "server/simulation/simulation_report.h"
#include "server/simulation/trace.h"

namespace sparseserve {

struct SimulationOptions {
  std::vector<TracedRequest> requests;  // in order of arrival
  std::vector<SimulatedClass> classes = {SimulatedClass()};
  absl::Duration default_deadline = absl::InfiniteDuration();

  int replicas = 1;  // 1 to 64
  std::string picker = "least_loaded";
  WeightedPicker::Options orca;
  Scheduler::Options scheduler;  // of each replica, like the next ones
  RequestQueue::Options queue;
  StepCosts costs;
  double step_noise = 0;  // CostModelExecutor::Options::noise; 0 to 1

  // Draws classes, prompts and noise.
  uint64_t seed = 1;
};

struct SimulationProgress {
  absl::Duration simulated;
  int64_t arrived = 0;
  int64_t ended = 0;
};

// Runs all requests to their end in virtual time; the same options give the
// same report. `on_progress` (may be empty) is called each few thousand events.
// INVALID_ARGUMENT names the option that is out of range.
absl::StatusOr<SimulationReport> Simulate(
    const SimulationOptions& options,
    const std::function<void(const SimulationProgress&)>& on_progress);

}  // namespace sparseserve
