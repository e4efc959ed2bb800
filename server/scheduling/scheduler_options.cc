#include "server/scheduling/scheduler_options.h"

#include <limits>
#include <string_view>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

constexpr int kMostStepTokens = 8192;
constexpr int kMostRunningSequences = 1024;

absl::Status CheckRange(std::string_view name, int value, int least, int most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("scheduler.", name, " is ", value,
                                           ", must be from ", least, " to ",
                                           most));
}

absl::Status CheckPositive(std::string_view name, absl::Duration value) {
  if (value > absl::ZeroDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("scheduler.", name, " is ",
                                           absl::FormatDuration(value),
                                           ", must be above 0"));
}

}  // namespace

absl::Status CheckSchedulerOptions(const SchedulerOptions& options) {
  constexpr int kMostInt = std::numeric_limits<int>::max();
  RETURN_IF_ERROR(CheckRange("max_running_sequences",
                             options.max_running_sequences, 1,
                             kMostRunningSequences));
  // All but one may decode while that one needs room for a page-sized chunk.
  RETURN_IF_ERROR(CheckRange("max_step_tokens", options.max_step_tokens,
                             options.max_running_sequences - 1 + kPageTokens,
                             kMostStepTokens));
  RETURN_IF_ERROR(
      CheckRange("context_tokens", options.context_tokens, 2, kMostInt));
  RETURN_IF_ERROR(CheckRange("kv_pages", options.kv_pages, 1, kMostInt));
  RETURN_IF_ERROR(CheckPositive("step_time_target", options.step_time_target));
  RETURN_IF_ERROR(CheckPositive("ageing_period", options.ageing_period));
  if (!(options.best_effort_share >= 0 && options.best_effort_share <= 1)) {
    return absl::InvalidArgumentError(StrCat("scheduler.best_effort_share is ",
                                             options.best_effort_share,
                                             ", must be from 0 to 1"));
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
