#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/load/arrival_schedule.h"
#include "client/load/prompt_source.h"
#include "client/load/request_plan.h"
#include "client/load/trace.h"
#include "client/tool/flag_set.h"

namespace sparseserve {

// Flags that say which requests a load run sends and when. An object serves one
// run: flags, then Read(), then the rest.
class LoadFlags {
 public:
  // Bound to the members of this object.
  std::vector<Flag> flags();

  // Reads files and checks what was given; an error names the flag, or a file's
  // line.
  absl::Status Read();

  // REQUIRES: Read() was OK, here and below.
  ArrivalSchedule Schedule() const;
  RequestPlan Plan() const;
  PromptSource::Options Prefixes() const;
  const std::string& text() const { return text_; }

  bool is_closed_loop() const { return concurrency_.has_value(); }
  uint64_t seed() const { return static_cast<uint64_t>(seed_.value_or(1)); }
  // Infinite and 0 if they are not limited.
  absl::Duration duration() const;
  int64_t requests() const;

 private:
  absl::Status ReadSchedule();
  absl::Status ReadTrace();
  absl::Status ReadRequests();
  absl::Status ReadCancels();

  std::string rate_flag_;
  std::string concurrency_flag_;
  std::string trace_file_;
  std::optional<double> arrival_scale_;
  std::optional<absl::Duration> duration_;
  std::optional<int64_t> requests_;
  std::vector<std::string> class_flags_;
  std::string prompt_tokens_flag_ = "256";
  std::string output_tokens_flag_ = "64";
  std::string text_file_;
  std::optional<int32_t> prefix_tokens_;
  std::optional<int32_t> prefixes_;
  std::optional<double> cancel_share_;
  std::optional<absl::Duration> cancel_after_;
  std::optional<int64_t> seed_;

  std::optional<Ramp> rate_;
  std::optional<Ramp> concurrency_;
  std::vector<TraceRequest> trace_;
  RequestPlan::Options plan_;
  std::string text_;
};

}  // namespace sparseserve
