#include "server/rpc/load_reporter.h"

#include <sys/resource.h>

#include <utility>

#include "server/scheduling/application_utilization.h"

namespace sparseserve {
namespace {

constexpr absl::Duration kWindow = absl::Seconds(1);

}  // namespace

LoadReporter::LoadReporter(Limits limits, Dependencies dependencies)
    : limits_(limits),
      d_(std::move(dependencies)),
      window_{.time = d_.clock(), .cpu = d_.cpu_time()} {}

void LoadReporter::UpdateRates(const LoadGauge::Load& load) {
  const Totals now = {d_.clock(), ended_, failed_, d_.cpu_time(), load.blocks};
  if (now.time - window_.time < kWindow) return;
  const double seconds = absl::ToDoubleSeconds(now.time - window_.time);
  ended_per_second_ = static_cast<double>(now.ended - window_.ended) / seconds;
  failed_per_second_ =
      static_cast<double>(now.failed - window_.failed) / seconds;
  cpu_utilization_ =
      absl::ToDoubleSeconds(now.cpu - window_.cpu) / (seconds * limits_.cores);
  const int64_t allowed = now.blocks.allowed - window_.blocks.allowed;
  if (allowed > 0) {
    density_ =
        static_cast<double>(now.blocks.computed - window_.blocks.computed) /
        static_cast<double>(allowed);
  }
  window_ = now;
}

LoadReporter::Report LoadReporter::ReportOf(const LoadGauge::Load& load) const {
  Report report;
  report.set_cpu_utilization(cpu_utilization_);
  report.set_rps_fractional(ended_per_second_);
  report.set_eps(failed_per_second_);
  report.set_application_utilization(ApplicationUtilization(
      load.kv_usage, static_cast<double>(load.running) / limits_.running,
      static_cast<double>(load.waiting) / limits_.waiting));
  auto& named = *report.mutable_named_metrics();
  named["kv_cache_usage"] = load.kv_usage;
  named["queue_depth"] = load.waiting;
  if (density_.has_value()) named["density"] = *density_;
  return report;
}

LoadReporter::Report LoadReporter::Current() {
  const LoadGauge::Load load = d_.gauge.load();
  MutexLock lock(mu_);
  UpdateRates(load);
  return ReportOf(load);
}

std::string LoadReporter::Ended(bool failed, int prompt_tokens,
                                int generated_tokens) {
  const LoadGauge::Load load = d_.gauge.load();
  Report report;
  {
    MutexLock lock(mu_);
    ++ended_;
    if (failed) ++failed_;
    UpdateRates(load);
    report = ReportOf(load);
  }
  auto& cost = *report.mutable_request_cost();
  cost["prompt_tokens"] = prompt_tokens;
  cost["generated_tokens"] = generated_tokens;
  return report.SerializeAsString();
}

absl::Duration ProcessCpuTime() {
  rusage usage = {};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return absl::ZeroDuration();
  return absl::DurationFromTimeval(usage.ru_utime) +
         absl::DurationFromTimeval(usage.ru_stime);
}

}  // namespace sparseserve
