#include "server/rpc/request_log.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <utility>

#include "nlohmann/json.hpp"
#include "server/rpc/request_id.h"

namespace sparseserve {
namespace {

using Json = nlohmann::ordered_json;

// How long the end of the server waits for a reader that takes nothing.
constexpr int kPatienceMs = 100;

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
  if (!generation.plan.empty()) line["plan"] = generation.plan;
  if (!generation.pattern.empty()) line["pattern"] = generation.pattern;
  if (generation.density.has_value()) line["density"] = *generation.density;
}

std::string Format(const RequestLogEntry& entry) {
  Json line;
  line["time"] =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", entry.time, absl::UTCTimeZone());
  line["severity"] = "INFO";
  line["event"] = entry.event;
  line["method"] = entry.method;
  line["request_id"] = entry.request_id;
  if (!entry.traceparent.empty()) {
    // The first for those who search, the second for those who follow it up.
    line["trace_id"] = TraceIdOf(entry.traceparent);
    line["traceparent"] = entry.traceparent;
  }
  if (!entry.peer.empty()) line["peer"] = entry.peer;
  if (!entry.caller.empty()) line["caller"] = entry.caller;
  line["model"] = entry.model;
  line["code"] = entry.code;
  if (!entry.reason.empty()) line["reason"] = entry.reason;
  if (entry.generation.has_value()) AddGeneration(*entry.generation, line);
  line["total_ms"] = Milliseconds(entry.total);

  return line.dump(-1, ' ', /*ensure_ascii=*/true,
                   Json::error_handler_t::replace);
}

}  // namespace

RequestLog::RequestLog(int descriptor, Metrics& metrics, size_t max_bytes)
    : descriptor_(descriptor), max_bytes_(max_bytes), metrics_(metrics) {
  thread_ = std::thread([this] { Run(); });
}

RequestLog::~RequestLog() {
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void RequestLog::Write(const RequestLogEntry& entry) {
  if (descriptor_ < 0) return;
  std::string line = Format(entry) + "\n";
  {
    MutexLock lock(mu_);
    if (bytes_ + line.size() > max_bytes_) {
      metrics_.LogLineDropped();
      return;
    }
    bytes_ += line.size();
    lines_.push_back(std::move(line));
  }
  changed_.NotifyAll();
}

void RequestLog::Flush(absl::Duration at_most) {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(at_most);
  MutexLock lock(mu_);
  while (!lines_.empty() || writing_) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= left.zero()) return;
    changed_.WaitFor(mu_, left);
  }
}

void RequestLog::Run() {
  while (true) {
    std::string line;
    {
      MutexLock lock(mu_);
      writing_ = false;
      changed_.NotifyAll();
      while (lines_.empty() && !stop_) changed_.Wait(mu_);
      if (lines_.empty()) return;
      line = std::move(lines_.front());
      lines_.pop_front();
      bytes_ -= line.size();
      writing_ = true;
    }
    if (WriteLine(line)) continue;
    metrics_.LogLineDropped();
    if (!stop_) continue;
    // Whoever did not take this one takes none of the others.
    MutexLock lock(mu_);
    for (size_t i = 0; i < lines_.size(); ++i) metrics_.LogLineDropped();
    return;
  }
}

bool RequestLog::WriteLine(std::string_view line) {
  while (!line.empty()) {
    // Lines are shorter than what a pipe takes at once: once it has room, the
    // write does not wait for a reader.
    pollfd room = {.fd = descriptor_, .events = POLLOUT, .revents = 0};
    const int ready = poll(&room, 1, kPatienceMs);
    if (ready == 0 && stop_) return false;
    if (ready <= 0) continue;
    const ssize_t written = write(descriptor_, line.data(), line.size());
    if (written > 0) {
      line.remove_prefix(written);
    } else if (errno != EINTR && errno != EAGAIN) {
      return false;  // nobody to tell
    }
  }
  return true;
}

}  // namespace sparseserve
