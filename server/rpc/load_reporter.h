#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "server/scheduling/load_gauge.h"
#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace sparseserve {

// gRFC A51's name of the trailer.
inline constexpr char kLoadTrailer[] = "endpoint-load-metrics-bin";

// Says how loaded this server is, in ORCA's terms, so that clients and gateways
// can weigh replicas: in a trailer of each generation, and out of band through
// OrcaService. Rates are over the last whole second or more. Thread-safe; does
// not block.
class LoadReporter {
 public:
  using Report = xds::data::orca::v3::OrcaLoadReport;

  struct Limits {     // each at least 1
    int running = 1;  // requests in the batch
    int waiting = 1;  // requests in the queue
    int cores = 1;
  };
  struct Dependencies {  // all outlive this
    const LoadGauge& gauge;
    std::function<absl::Time()> clock;
    std::function<absl::Duration()> cpu_time;  // spent by the process
  };
  LoadReporter(Limits limits, Dependencies dependencies);

  // Of the whole server, now.
  Report Current();

  // A generation ended, or `failed` for a cause that is not its caller's;
  // tokens are 0 where it did not get so far. Returns the trailer's value.
  std::string Ended(bool failed, int prompt_tokens, int generated_tokens);

 private:
  // What has been counted up to one time.
  struct Totals {
    absl::Time time;
    int64_t ended = 0;
    int64_t failed = 0;
    absl::Duration cpu;
    AttentionBlocks blocks;
  };

  // Rates since `window_`, which begins anew once it is a second old.
  void UpdateRates(const LoadGauge::Load& load)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Report ReportOf(const LoadGauge::Load& load) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Limits limits_;
  const Dependencies d_;
  Mutex mu_;
  int64_t ended_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t failed_ ABSL_GUARDED_BY(mu_) = 0;
  Totals window_ ABSL_GUARDED_BY(mu_);
  double ended_per_second_ ABSL_GUARDED_BY(mu_) = 0;
  double failed_per_second_ ABSL_GUARDED_BY(mu_) = 0;
  double cpu_utilization_ ABSL_GUARDED_BY(mu_) = 0;
  // Nothing before the first attention was computed.
  std::optional<double> density_ ABSL_GUARDED_BY(mu_);
};

// CPU time that this process has spent.
absl::Duration ProcessCpuTime();

}  // namespace sparseserve
