#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/sequence.h"
#include "server/simulation/replica.h"
#include "server/simulation/simulated_class.h"

namespace sparseserve {

// How the requests of one class went. They count as `sparseserve load` counts:
// those that finished and kept to all that their class names have met their
// targets, all others have missed.
class ClassOutcome {
 public:
  explicit ClassOutcome(const SimulatedClass& asked) : asked_(asked) {}

  // Not accepted, and why.
  void Refused(const std::string& reason);
  void Ended(const Sequence& sequence);
  void Add(const ClassOutcome& other);

  const std::string& name() const { return asked_.name; }
  int64_t requests() const { return finished + refused + failed; }
  double attainment() const;  // 0 of no requests

  int64_t finished = 0;
  int64_t refused = 0;  // nothing ran for it
  int64_t failed = 0;   // accepted, but did not finish
  int64_t met = 0;
  std::map<std::string, int64_t> reasons;  // of those not finished
  int64_t prompt_tokens = 0;               // of accepted ones, here and below
  int64_t cached_prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t met_output_tokens = 0;
  int64_t unfinished_tokens = 0;      // computed for what did not finish
  std::vector<double> first_token_s;  // of those that got one
  std::vector<double> per_token_s;    // of finished ones with two or more
  std::vector<double> total_s;        // of finished ones

 private:
  SimulatedClass asked_;
};

// The value at the nearest rank; nothing of none.
std::optional<double> Percentile(std::vector<double> values, double share);

// What a simulation comes to.
struct SimulationReport {
  std::string picker;
  uint64_t seed = 0;
  absl::Duration elapsed;  // from the first arrival to the last end
  std::vector<ClassOutcome> classes;
  std::vector<Replica::Work> replicas;

  ClassOutcome All() const;
  Replica::Work AllWork() const;  // peaks are the highest
  // Share of computed tokens that nobody got anything from: of requests that
  // did not finish, and those that preemption had computed again.
  double Waste() const;
  // Of one replica: share of the time in which a step ran.
  double BusyShare(const Replica::Work& work) const;
};

// For people, ends with a newline.
std::string ReportText(const SimulationReport& report);
std::string ReportJson(const SimulationReport& report);

}  // namespace sparseserve
