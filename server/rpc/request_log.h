#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "engine/base/mutex.h"

namespace sparseserve {

// What is written about one call. Never what was asked or answered.
struct RequestLogEntry {
  absl::Time time;  // when the call ended
  std::string_view method;
  std::string_view request_id;
  std::string_view traceparent;  // well-formed or empty
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
    std::optional<double> density;  // of the whole attention
  };
  std::optional<Generation> generation;
};

// One JSON object a line for every call. Thread-safe; a line is one write, so
// lines of other writers do not mix in. Writes block if the reader of the
// descriptor does not read: never call this on the serving thread.
class RequestLog {
 public:
  explicit RequestLog(int descriptor) : descriptor_(descriptor) {}
  void Write(const RequestLogEntry& entry);

 private:
  const int descriptor_;
  Mutex mu_;  // one line at a time
};

}  // namespace sparseserve
