#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/load_stopwatch.h"
#include "server/rpc/server_settings.h"

namespace sparseserve {

class HealthServer;
class Metrics;

// A loaded model, served: the graph of everything between the sockets and the
// engine. Made by main, which waits for the reason to end it.
class Server {
 public:
  struct Options {
    // REQUIRES: the engine measures recall if a share of requests is sampled.
    ServerSettings settings;
    std::string model_name;      // resource name, "models/{model}"
    std::string listen;          // host:port
    std::string metrics_listen;  // host:port; empty for none
    std::string admin_listen;    // likewise, of AdminService
    // Whether that one is encrypted and asks who calls. REQUIRES then: TLS with
    // client CA and access policy.
    bool admin_needs_identity = false;
    // Told of liveness and readiness besides the callers' port; may be null.
    HealthServer* health = nullptr;
    // Runs the model once before it is ready.
    bool warms_up = false;
    std::string version;
    std::string revision;
    // Answers ExplainAttention. REQUIRES: the engine measures recall.
    bool explains = false;
    LoadTimes load_times;    // of the engine, for the metrics
    int log_descriptor = 2;  // takes a line a call
    // What the log's lines are dated by. It may jump: durations and deadlines
    // do not follow it.
    std::function<absl::Time()> wall_clock = absl::Now;
    // Called once, on the serving thread, if the device failed for good.
    std::function<void(const absl::Status&)> on_device_failure;
    // Asks main to drain, as AdminService.Drain wants. Returns at once.
    std::function<void()> on_drain_request = [] {};
    // Takes a line for the operator.
    std::function<void(const std::string&)> notice = [](const std::string&) {};
  };

  // Serves, with health SERVING, when it returns. INVALID_ARGUMENT names a
  // setting that does not suit the model, or a security file that is no good;
  // UNAVAILABLE an address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      Options options, std::unique_ptr<Engine> engine);
  // Cancels what is left.
  ~Server();

  int port() const;
  int metrics_port() const;  // 0 for none
  int admin_port() const;    // likewise
  const Metrics& metrics() const;
  int max_prompt_tokens() const;

  // Takes over security files that were replaced, now.
  void ReloadSecurityFiles();

  // Health turns to NOT_SERVING, new requests are refused with UNAVAILABLE /
  // "DRAINING". Returns when the running ones have finished, or after
  // `at_most`, having cancelled the rest.
  void Drain(absl::Duration at_most);
  // The device is gone: health turns to NOT_SERVING, calls end.
  void Abandon();

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace sparseserve
