#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "server/metrics/metrics.h"

namespace sparseserve {

// What is written about one call. Never what was asked or answered.
struct RequestLogEntry {
  absl::Time time;  // when the call ended
  std::string_view method;
  std::string_view request_id;
  std::string_view traceparent;  // well-formed or empty
  std::string_view event = "call";
  std::string_view peer;    // address; empty: not told
  std::string_view caller;  // proven identity; empty: none
  std::string_view model;
  std::string_view code;    // "OK"
  std::string_view reason;  // ErrorInfo's; empty if OK
  absl::Duration total;

  // Of generations that ran.
  struct Generation {
    std::optional<int> prompt_tokens;
    int output_tokens = 0;
    std::optional<absl::Duration> queue;
    std::optional<absl::Duration> time_to_first_token;
    std::string_view plan;          // empty if the request named a pattern
    std::string_view pattern;       // empty if the request was refused before
    std::optional<double> density;  // of the whole attention
  };
  std::optional<Generation> generation;
};

// One JSON object a line for every call. A line is one write, so lines of other
// writers do not mix in. Writes on a thread of its own: if nobody reads the
// descriptor, lines wait up to a bound, and those beyond it are dropped and
// counted. Thread-safe.
class RequestLog {
 public:
  // A negative descriptor takes nothing. `metrics` outlives the log; lines that
  // wait take `max_bytes` at most.
  RequestLog(int descriptor, Metrics& metrics, size_t max_bytes = 1 << 20);
  // Writes what waits, as long as it is read. REQUIRES: no Write() or Flush()
  // is under way.
  ~RequestLog();

  // Never blocks.
  void Write(const RequestLogEntry& entry);

  // Returns once nothing waits, or after `at_most`, which is finite.
  void Flush(absl::Duration at_most);

 private:
  void Run();
  // False if the line was given up.
  bool WriteLine(std::string_view line);

  const int descriptor_;
  const size_t max_bytes_;
  Metrics& metrics_;
  std::atomic<bool> stop_{false};
  Mutex mu_;
  CondVar changed_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mu_);
  size_t bytes_ ABSL_GUARDED_BY(mu_) = 0;  // of lines_
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace sparseserve
