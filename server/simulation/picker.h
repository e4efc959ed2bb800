#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sparseserve {

// What a client or gateway may know of a replica.
struct ReplicaLoad {
  int requests = 0;        // that wait or run
  double utilization = 0;  // ApplicationUtilization()
  int64_t ended = 0;       // requests, since the start
};

// Chooses the replica of each request. One thread; time does not go back.
class Picker {
 public:
  virtual ~Picker() = default;
  // `loads`, not empty and always as many, are as they are now. Below
  // loads.size().
  virtual int Pick(const std::vector<ReplicaLoad>& loads, absl::Time now) = 0;
};

// Each in turn.
class RoundRobinPicker : public Picker {
 public:
  int Pick(const std::vector<ReplicaLoad>& loads, absl::Time now) override;

 private:
  int next_ = 0;
};

// The one with the fewest requests; of several, each in turn.
class LeastLoadedPicker : public Picker {
 public:
  int Pick(const std::vector<ReplicaLoad>& loads, absl::Time now) override;

 private:
  int next_ = 0;
};

// Weighted round robin as gRPC clients have it (gRFC A58): each replica reports
// out of band (here at the first pick after each interval), its weight is
// requests a second over utilization, and picks go in turn, as often as weights
// say. Without two weights that count, each in turn; one without a weight has
// the others' mean.
class WeightedPicker : public Picker {
 public:
  struct Options {  // as gRPC's defaults
    absl::Duration report_interval = absl::Seconds(10);
    // So long after its first report a replica's weight does not count.
    absl::Duration blackout = absl::Seconds(10);
  };
  explicit WeightedPicker(const Options& options) : options_(options) {}

  int Pick(const std::vector<ReplicaLoad>& loads, absl::Time now) override;

 private:
  struct Backend {
    int64_t ended = 0;  // at the latest report
    double weight = 0;  // 0: none
    absl::Time first_weight = absl::InfiniteFuture();
    double picked = 0;  // over its weight
  };
  void TakeReports(const std::vector<ReplicaLoad>& loads, absl::Time now);
  // 0 where it does not count.
  double WeightOf(const Backend& backend, absl::Time now) const;

  const Options options_;
  RoundRobinPicker fallback_;
  std::vector<Backend> backends_;
  absl::Time reported_ = absl::InfinitePast();
};

// "round_robin", "least_loaded" or "orca". INVALID_ARGUMENT otherwise.
absl::StatusOr<std::unique_ptr<Picker>> MakePicker(
    std::string_view name, const WeightedPicker::Options& options);

}  // namespace sparseserve
