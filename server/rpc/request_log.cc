#include "server/rpc/request_log.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>

#include "nlohmann/json.hpp"
#include "server/rpc/request_id.h"

namespace sparseserve {
namespace {

using Json = nlohmann::ordered_json;

// Microseconds are as exact as anyone reads.
double Milliseconds(absl::Duration duration) {
  return std::round(absl::ToDoubleMicroseconds(duration)) / 1e3;
}

void AddGeneration(const RequestLogEntry::Generation& generation, Json& line) {
  if (generation.prompt_tokens.has_value()) {
    line["prompt_tokens"] = *generation.prompt_tokens;
  }
  line["output_tokens"] = generation.output_tokens;
  if (generation.queue.has_value()) {
    line["queue_ms"] = Milliseconds(*generation.queue);
  }
  if (generation.time_to_first_token.has_value()) {
    line["time_to_first_token_ms"] =
        Milliseconds(*generation.time_to_first_token);
  }
  line["plan"] = "dense";
  if (generation.density.has_value()) line["density"] = *generation.density;
}

}  // namespace

void RequestLog::Write(const RequestLogEntry& entry) {
  Json line;
  line["time"] =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", entry.time, absl::UTCTimeZone());
  line["severity"] = "INFO";
  line["event"] = "call";
  line["method"] = entry.method;
  line["request_id"] = entry.request_id;
  if (!entry.traceparent.empty()) {
    // The first for those who search, the second for those who follow it up.
    line["trace_id"] = TraceIdOf(entry.traceparent);
    line["traceparent"] = entry.traceparent;
  }
  line["model"] = entry.model;
  line["code"] = entry.code;
  if (!entry.reason.empty()) line["reason"] = entry.reason;
  if (entry.generation.has_value()) AddGeneration(*entry.generation, line);
  line["total_ms"] = Milliseconds(entry.total);

  std::string text =
      line.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  text += '\n';
  MutexLock lock(mu_);
  for (std::string_view rest = text; !rest.empty();) {
    const ssize_t written = write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno != EINTR) return;  // nobody to tell
    if (written > 0) rest.remove_prefix(written);
  }
}

}  // namespace sparseserve
