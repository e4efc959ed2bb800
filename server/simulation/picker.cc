#include "server/simulation/picker.h"

#include <algorithm>

#include "absl/status/status.h"
#include "engine/base/str_cat.h"

namespace sparseserve {

int RoundRobinPicker::Pick(const std::vector<ReplicaLoad>& loads, absl::Time) {
  const int replicas = static_cast<int>(loads.size());
  const int picked = next_ % replicas;
  next_ = (picked + 1) % replicas;
  return picked;
}

int LeastLoadedPicker::Pick(const std::vector<ReplicaLoad>& loads, absl::Time) {
  const int replicas = static_cast<int>(loads.size());
  int best = next_ % replicas;
  for (int i = 1; i < replicas; ++i) {
    const int other = (next_ + i) % replicas;
    if (loads[other].requests < loads[best].requests) best = other;
  }
  next_ = (best + 1) % replicas;
  return best;
}

void WeightedPicker::TakeReports(const std::vector<ReplicaLoad>& loads,
                                 absl::Time now) {
  if (backends_.empty()) backends_.resize(loads.size());
  if (reported_ == absl::InfinitePast()) {
    reported_ = now;
    return;
  }
  if (now - reported_ < options_.report_interval) return;
  const double seconds = absl::ToDoubleSeconds(now - reported_);
  for (size_t i = 0; i < loads.size(); ++i) {
    Backend& backend = backends_[i];
    const double ended_per_second =
        static_cast<double>(loads[i].ended - backend.ended) / seconds;
    backend.ended = loads[i].ended;
    // gRPC leaves a weight as it is where a report names neither.
    if (ended_per_second > 0 && loads[i].utilization > 0) {
      backend.weight = ended_per_second / loads[i].utilization;
      backend.first_weight = std::min(backend.first_weight, now);
    }
    backend.picked = 0;
  }
  reported_ = now;
}

double WeightedPicker::WeightOf(const Backend& backend, absl::Time now) const {
  return now - backend.first_weight >= options_.blackout ? backend.weight : 0;
}

int WeightedPicker::Pick(const std::vector<ReplicaLoad>& loads,
                         absl::Time now) {
  TakeReports(loads, now);
  double sum = 0;
  int counted = 0;
  for (const Backend& backend : backends_) {
    const double weight = WeightOf(backend, now);
    sum += weight;
    counted += weight > 0 ? 1 : 0;
  }
  if (counted < 2) return fallback_.Pick(loads, now);
  // The one whose next pick comes first if each were picked at even distances.
  int best = 0;
  double best_next = 0;
  for (size_t i = 0; i < backends_.size(); ++i) {
    const double weight = WeightOf(backends_[i], now);
    const double next =
        backends_[i].picked + 1 / (weight > 0 ? weight : sum / counted);
    if (i == 0 || next < best_next) {
      best = static_cast<int>(i);
      best_next = next;
    }
  }
  backends_[best].picked = best_next;
  return best;
}

absl::StatusOr<std::unique_ptr<Picker>> MakePicker(
    std::string_view name, const WeightedPicker::Options& options) {
  if (name == "round_robin") return std::make_unique<RoundRobinPicker>();
  if (name == "least_loaded") return std::make_unique<LeastLoadedPicker>();
  if (name == "orca") return std::make_unique<WeightedPicker>(options);
  return absl::InvalidArgumentError(
      StrCat("picker \"", name, "\" is not round_robin, least_loaded or orca"));
}

}  // namespace sparseserve
