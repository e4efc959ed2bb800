#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/policy/named_plan.h"
#include "server/rpc/target_conversion.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/scheduler.h"
#include "server/security/security_files.h"

namespace sparseserve {

// What flags may set besides the config file; a flag that is given wins.
struct SettingFlags {
  std::optional<int> max_step_tokens;
  std::optional<int> max_running_sequences;
  std::optional<int> max_queued_requests;
  std::optional<absl::Duration> drain_timeout;
  std::optional<std::string> tls_certificate;
  std::optional<std::string> tls_key;
  std::optional<std::string> tls_client_ca;
};

// What server_config.proto describes, settled: flag, else config, else default.
struct ServerSettings {
  // 0, where neither a flag nor the config says it: what the engine's device
  // likes (Engine::max_step_tokens).
  int max_step_tokens = 512;
  int max_running_sequences = 32;
  int max_queued_requests = 256;
  int max_queued_tokens = 1'000'000;
  absl::Duration step_time_target = absl::Milliseconds(100);
  double best_effort_share = 0.2;
  absl::Duration ageing_period = absl::Seconds(30);
  bool prefix_cache = true;
  DefaultTargets default_targets;
  std::string caller_key;
  int max_requests_per_caller = 0;  // 0: no limit
  int max_tokens_per_caller = 0;    // likewise
  absl::Duration drain_timeout = absl::Seconds(30);
  absl::Duration stall_timeout = absl::Minutes(2);

  // At most the model's context, which only Server::Start knows.
  std::optional<int> default_max_output_tokens;
  absl::Duration default_deadline = absl::Minutes(10);
  absl::Duration slow_consumer_timeout = absl::Seconds(30);
  int max_buffered_messages = 1024;

  // Besides kDensePlan. Whether the model may run with them only Server::Start
  // knows.
  std::vector<PlanRule> attention_plans;
  double recall_sample_share = 0;
  bool report_load = true;
  // Whether the model has them only Engine::Create() knows.
  std::vector<PrunedHeads> pruned_heads;

  int max_request_bytes = 4 << 20;
  int max_concurrent_streams = 1024;
  int max_metadata_bytes = 16 << 10;
  absl::Duration max_connection_age = absl::InfiniteDuration();
  absl::Duration max_connection_idle = absl::Minutes(15);
  absl::Duration keepalive_time = absl::Minutes(1);
  absl::Duration keepalive_timeout = absl::Seconds(20);

  SecurityOptions security;
};

// `config` is a ServerConfig in text format, or empty; `config_name` names it
// in errors. INVALID_ARGUMENT says what is wrong: line and column of text that
// is no ServerConfig, or each value out of its range.
absl::StatusOr<ServerSettings> SettleSettings(const std::string& config,
                                              const std::string& config_name,
                                              const SettingFlags& flags);

// Of a model with such a context, in so many pages.
Scheduler::Options SchedulingOptions(const ServerSettings& settings,
                                     int context_tokens, int kv_pages);
RequestQueue::Options QueueOptions(const ServerSettings& settings);

// "64MiB", "2GiB", "1.5GiB", "4096": bytes, with KiB, MiB, GiB, TiB or without
// a unit. INVALID_ARGUMENT repeats text that is none, or above 2^60.
absl::StatusOr<int64_t> ParseByteSize(std::string_view text);

// "host:port" or "[IPv6]:port", port 0 to 65535, or "unix:/path".
// INVALID_ARGUMENT otherwise.
struct ListenAddress {
  std::string host;  // or all of "unix:/path"
  int port = 0;
  // Only this machine can reach it.
  bool loopback = false;
  bool is_unix = false;
};
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text);

}  // namespace sparseserve
