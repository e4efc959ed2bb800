#include "server/rpc/server_settings.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/step.h"
#include "server/rpc/attention_conversion.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/security_settings.h"
#include "server/rpc/text_message.h"
#include "sparseserve/v1/server_config.pb.h"

namespace sparseserve {
namespace {

constexpr int kMaxClasses = 64;
constexpr int kMaxPrunedHeads = 1024;

// Takes values over defaults and notes those out of range under the name that
// the operator gave them.
class Settler {
 public:
  void Int(const std::string& name, bool present, int64_t value,
           std::pair<int64_t, int64_t> range, int& setting) {
    if (!present) return;
    errors_.CheckRange(name, value, range.first, range.second);
    setting = static_cast<int>(value);
  }

  void Real(const std::string& name, bool present, double value,
            std::pair<double, double> range, double& setting) {
    if (!present) return;
    errors_.CheckRange(name, value, range.first, range.second);
    setting = value;
  }

  void Time(const std::string& name, bool present, absl::Duration value,
            std::pair<absl::Duration, absl::Duration> range,
            absl::Duration& setting) {
    if (!present) return;
    if (value < range.first || value > range.second) {
      errors_.Add(name, absl::FormatDuration(value),
                  StrCat("from ", absl::FormatDuration(range.first), " to ",
                         absl::FormatDuration(range.second)));
    }
    setting = value;
  }

  void Refuse(const std::string& name, int value,
              const std::string& requirement) {
    errors_.Add(name, StrCat(value), requirement);
  }

  FieldErrors& errors() { return errors_; }

  absl::Status ToStatus() const {
    std::vector<std::string> lines;
    for (const FieldViolation& violation : errors_.violations()) {
      const bool has_value = !violation.value.empty();
      lines.push_back(StrCat(violation.field, has_value ? " is " : "",
                             violation.value, has_value ? "," : "", " must be ",
                             violation.requirement));
    }
    return lines.empty()
               ? absl::OkStatus()
               : absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
  }

 private:
  FieldErrors errors_;
};

absl::Duration ToDuration(const google::protobuf::Duration& proto) {
  return absl::Seconds(proto.seconds()) + absl::Nanoseconds(proto.nanos());
}

void SettleScheduler(const v1::SchedulerConfig& config,
                     const SettingFlags& flags, Settler& settler,
                     ServerSettings& settings) {
  const auto settle = [&settler](const char* field, bool present, int64_t value,
                                 std::optional<int> flag,
                                 std::pair<int64_t, int64_t> range,
                                 int& setting) {
    settler.Int(StrCat("scheduler.", field), present, value, range, setting);
    settler.Int(StrCat("--", field), flag.has_value(), flag.value_or(0), range,
                setting);
  };
  settle("max_step_tokens", config.has_max_step_tokens(),
         config.max_step_tokens(), flags.max_step_tokens, {16, 8192},
         settings.max_step_tokens);
  settle("max_running_sequences", config.has_max_running_sequences(),
         config.max_running_sequences(), flags.max_running_sequences, {1, 1024},
         settings.max_running_sequences);
  settle("max_queued_requests", config.has_max_queued_requests(),
         config.max_queued_requests(), flags.max_queued_requests, {1, 100'000},
         settings.max_queued_requests);
  settler.Int("scheduler.max_queued_tokens", config.has_max_queued_tokens(),
              config.max_queued_tokens(), {1, (int64_t{1} << 31) - 1},
              settings.max_queued_tokens);
  settler.Time("scheduler.step_time_target", config.has_step_time_target(),
               ToDuration(config.step_time_target()),
               {absl::Milliseconds(1), absl::Minutes(1)},
               settings.step_time_target);
  settler.Real("scheduler.best_effort_share", config.has_best_effort_share(),
               config.best_effort_share(), {0, 1}, settings.best_effort_share);
  settler.Time("scheduler.ageing_period", config.has_ageing_period(),
               ToDuration(config.ageing_period()),
               {absl::Seconds(1), absl::Hours(1)}, settings.ageing_period);
  if (config.has_prefix_cache()) settings.prefix_cache = config.prefix_cache();
}

void SettleQuotas(const v1::CallerQuotaConfig& config, Settler& settler,
                  ServerSettings& settings) {
  const std::pair<int64_t, int64_t> range = {1, (int64_t{1} << 31) - 1};
  settler.Int("scheduler.caller_quota.max_requests", config.has_max_requests(),
              config.max_requests(), range, settings.max_requests_per_caller);
  settler.Int("scheduler.caller_quota.max_tokens", config.has_max_tokens(),
              config.max_tokens(), range, settings.max_tokens_per_caller);
  const std::string& key = config.metadata_key();
  const bool is_key =
      key.size() <= 64 &&
      key.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-.") ==
          key.npos;
  if (!is_key) {
    settler.errors().Add("scheduler.caller_quota.metadata_key", key,
                         "at most 64 characters of a-z, 0-9, _, - and .");
  }
  settings.caller_key = key;
}

void SettleClasses(const v1::SchedulerConfig& config, FieldErrors& errors,
                   DefaultTargets& targets) {
  if (config.classes_size() > kMaxClasses) {
    errors.Add("scheduler.classes", StrCat(config.classes_size(), " entries"),
               StrCat("at most ", kMaxClasses, " entries"));
    return;
  }
  for (int i = 0; i < config.classes_size(); ++i) {
    const v1::PriorityClassConfig& entry = config.classes(i);
    const std::string field = StrCat("scheduler.classes[", i, "]");
    errors.CheckRange(StrCat(field, ".priority"), int64_t{entry.priority()},
                      int64_t{kLeastPriority}, int64_t{kMostPriority});
    const LatencyTarget target = ConvertTarget(StrCat(field, ".default_target"),
                                               entry.default_target(), errors);
    if (!target.is_named()) {
      errors.Add(StrCat(field, ".default_target"), "",
                 "given, with at least one target");
    }
    if (!targets.emplace(entry.priority(), target).second) {
      errors.Add(StrCat(field, ".priority"), StrCat(entry.priority()),
                 "of no other class");
    }
  }
}

// A step must hold a token of every other sequence and a page of a prompt, for
// prompts are cut at pages' borders.
void SettleStepTokens(bool from_flag, bool from_config, Settler& settler,
                      ServerSettings& settings) {
  if (!from_flag && !from_config) {
    settings.max_step_tokens = 0;
    return;
  }
  const int least = settings.max_running_sequences + kPageTokens - 1;
  if (settings.max_step_tokens >= least) return;
  settler.Refuse(
      from_flag ? "--max_step_tokens" : "scheduler.max_step_tokens",
      settings.max_step_tokens,
      StrCat("at least ", least, ": max_running_sequences, which is ",
             settings.max_running_sequences, ", and ", kPageTokens - 1));
}

void SettleLimits(const v1::RequestLimits& limits, Settler& settler,
                  ServerSettings& settings) {
  if (limits.has_default_max_output_tokens()) {
    settings.default_max_output_tokens = 0;
    settler.Int("request_limits.default_max_output_tokens", true,
                limits.default_max_output_tokens(), {1, (int64_t{1} << 31) - 1},
                *settings.default_max_output_tokens);
  }
  settler.Time("request_limits.default_deadline", limits.has_default_deadline(),
               ToDuration(limits.default_deadline()),
               {absl::Seconds(1), absl::Hours(24)}, settings.default_deadline);
  settler.Time("request_limits.slow_consumer_timeout",
               limits.has_slow_consumer_timeout(),
               ToDuration(limits.slow_consumer_timeout()),
               {absl::Milliseconds(1), absl::Hours(1)},
               settings.slow_consumer_timeout);
  settler.Int("request_limits.max_buffered_messages",
              limits.has_max_buffered_messages(),
              limits.max_buffered_messages(), {1, 65'536},
              settings.max_buffered_messages);
}

void SettleConnection(const v1::ConnectionConfig& connection, Settler& settler,
                      ServerSettings& settings) {
  settler.Int("connection.max_request_bytes",
              connection.has_max_request_bytes(),
              connection.max_request_bytes(), {1 << 10, 64 << 20},
              settings.max_request_bytes);
  settler.Int("connection.max_concurrent_streams",
              connection.has_max_concurrent_streams(),
              connection.max_concurrent_streams(), {1, 65'536},
              settings.max_concurrent_streams);
  settler.Int("connection.max_metadata_bytes",
              connection.has_max_metadata_bytes(),
              connection.max_metadata_bytes(), {1 << 10, 16 << 10},
              settings.max_metadata_bytes);
  settler.Time(
      "connection.max_connection_age", connection.has_max_connection_age(),
      ToDuration(connection.max_connection_age()),
      {absl::Seconds(10), absl::Hours(24)}, settings.max_connection_age);
  settler.Time(
      "connection.max_connection_idle", connection.has_max_connection_idle(),
      ToDuration(connection.max_connection_idle()),
      {absl::Seconds(10), absl::Hours(24)}, settings.max_connection_idle);
  settler.Time("connection.keepalive_time", connection.has_keepalive_time(),
               ToDuration(connection.keepalive_time()),
               {absl::Seconds(1), absl::Hours(1)}, settings.keepalive_time);
  settler.Time(
      "connection.keepalive_timeout", connection.has_keepalive_timeout(),
      ToDuration(connection.keepalive_timeout()),
      {absl::Seconds(1), absl::Minutes(10)}, settings.keepalive_timeout);
}

void SettlePrunedHeads(const v1::ServerConfig& config, FieldErrors& errors,
                       ServerSettings& settings) {
  if (config.prune_heads_size() > kMaxPrunedHeads) {
    errors.Add("prune_heads", StrCat(config.prune_heads_size()),
               StrCat("at most ", kMaxPrunedHeads));
    return;
  }
  for (int i = 0; i < config.prune_heads_size(); ++i) {
    const v1::PrunedHeads& heads = config.prune_heads(i);
    const std::string field = StrCat("prune_heads[", i, "]");
    if (heads.layers().empty()) errors.Add(field + ".layers", "", "given");
    if (heads.kv_heads().empty()) errors.Add(field + ".kv_heads", "", "given");
    for (const int layer : heads.layers()) {
      settings.pruned_heads.push_back(
          {layer, {heads.kv_heads().begin(), heads.kv_heads().end()}});
    }
  }
}

}  // namespace

absl::StatusOr<ServerSettings> SettleSettings(const std::string& config,
                                              const std::string& config_name,
                                              const SettingFlags& flags) {
  v1::ServerConfig parsed;
  RETURN_IF_ERROR(ParseText(config, config_name, parsed));
  ServerSettings settings;
  Settler settler;
  SettleScheduler(parsed.scheduler(), flags, settler, settings);
  SettleClasses(parsed.scheduler(), settler.errors(), settings.default_targets);
  SettleQuotas(parsed.scheduler().caller_quota(), settler, settings);
  SettleLimits(parsed.request_limits(), settler, settings);
  SettleConnection(parsed.connection(), settler, settings);
  settings.attention_plans = ConvertPlans(parsed, settler.errors());
  SettlePrunedHeads(parsed, settler.errors(), settings);
  settler.Real("recall_sample_share", parsed.has_recall_sample_share(),
               parsed.recall_sample_share(), {0, 1},
               settings.recall_sample_share);
  settings.report_load = !parsed.has_report_load() || parsed.report_load();
  const std::pair drain_range(absl::ZeroDuration(), absl::Hours(1));
  settler.Time("drain_timeout", parsed.has_drain_timeout(),
               ToDuration(parsed.drain_timeout()), drain_range,
               settings.drain_timeout);
  settler.Time("--drain_timeout", flags.drain_timeout.has_value(),
               flags.drain_timeout.value_or(absl::ZeroDuration()), drain_range,
               settings.drain_timeout);
  settler.Time("stall_timeout", parsed.has_stall_timeout(),
               ToDuration(parsed.stall_timeout()),
               {absl::Seconds(1), absl::Hours(1)}, settings.stall_timeout);
  SettleSecurity(parsed.security(), flags, settler.errors(), settings.security);
  RETURN_IF_ERROR(settler.ToStatus());
  SettleStepTokens(flags.max_step_tokens.has_value(),
                   parsed.scheduler().has_max_step_tokens(), settler, settings);
  RETURN_IF_ERROR(settler.ToStatus());
  return settings;
}

Scheduler::Options SchedulingOptions(const ServerSettings& settings,
                                     int context_tokens, int kv_pages) {
  Scheduler::Options options;
  options.max_step_tokens = settings.max_step_tokens;
  options.max_running_sequences = settings.max_running_sequences;
  options.context_tokens = context_tokens;
  options.kv_pages = kv_pages;
  options.step_time_target = settings.step_time_target;
  options.best_effort_share = settings.best_effort_share;
  options.ageing_period = settings.ageing_period;
  options.keeps_prefixes = settings.prefix_cache;
  return options;
}

RequestQueue::Options QueueOptions(const ServerSettings& settings) {
  return {settings.max_queued_requests,
          settings.max_queued_tokens,
          {settings.max_requests_per_caller, settings.max_tokens_per_caller}};
}

absl::StatusOr<int64_t> ParseByteSize(std::string_view text) {
  static constexpr std::pair<std::string_view, int> kUnits[] = {
      {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}, {"B", 0}};
  std::string_view number = text;
  int shift = 0;
  for (const auto& [unit, unit_shift] : kUnits) {
    if (number.size() > unit.size() &&
        number.substr(number.size() - unit.size()) == unit) {
      number.remove_suffix(unit.size());
      shift = unit_shift;
      break;
    }
  }
  double value = 0;
  const bool plain =
      !number.empty() && number.find_first_not_of("0123456789.") == number.npos;
  if (!plain ||
      !absl::SimpleAtod(absl::string_view(number.data(), number.size()),
                        &value) ||
      value * std::ldexp(1.0, shift) > std::ldexp(1.0, 60)) {
    return absl::InvalidArgumentError(
        StrCat("\"", text,
               "\" is not a size: must be like 512MiB, 2GiB or 1073741824, at "
               "most 2^60 bytes"));
  }
  return static_cast<int64_t>(value * std::ldexp(1.0, shift));
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text) {
  const absl::Status malformed = absl::InvalidArgumentError(
      StrCat("\"", text, "\" is not host:port with a port from 0 to 65535"));
  if (text.substr(0, 5) == "unix:") {
    if (text.size() == 5) return malformed;
    return ListenAddress{std::string(text), 0, /*loopback=*/true,
                         /*is_unix=*/true};
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return malformed;
  ListenAddress address;
  address.host = std::string(text.substr(0, colon));
  const std::string_view port = text.substr(colon + 1);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == port.npos;
  if (!digits ||
      !absl::SimpleAtoi(absl::string_view(port.data(), port.size()),
                        &address.port) ||
      address.port > 65'535) {
    return malformed;
  }
  const bool bracketed =
      address.host.front() == '[' && address.host.back() == ']';
  // An IPv6 address without brackets would leave the port ambiguous.
  if (!bracketed && address.host.find(':') != std::string::npos) {
    return malformed;
  }
  // Digits and dots: a name such as 127.example.com may be anywhere.
  const bool loopback_v4 =
      address.host.rfind("127.", 0) == 0 &&
      address.host.find_first_not_of("0123456789.") == std::string::npos;
  address.loopback =
      address.host == "localhost" || address.host == "[::1]" || loopback_v4;
  return address;
}

}  // namespace sparseserve
