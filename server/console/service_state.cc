#include "server/console/service_state.h"

#include "absl/strings/string_view.h"

namespace sparseserve {
namespace {

std::map<std::string, std::string> Labels(const MetricsSnapshot& metrics,
                                          absl::string_view family) {
  std::map<std::string, std::string> labels;
  for (const auto& series : metrics.Family(family)) {
    labels.insert(series.labels.begin(), series.labels.end());
  }
  return labels;
}

void ReadPages(const MetricsSnapshot& metrics, ServiceState& state) {
  for (const auto& series : metrics.Family("sparseserve_kv_cache_pages")) {
    const absl::string_view pages = series.Label("state");
    if (pages == "used") state.used_pages += series.value;
    if (pages == "cached") state.cached_pages += series.value;
    if (pages == "free") state.free_pages += series.value;
  }
  state.kv_usage = metrics.Value("sparseserve_kv_cache_usage_ratio");
}

}  // namespace

ServiceState ReadState(const MetricsSnapshot& metrics) {
  ServiceState state;
  state.ready = metrics.Value("sparseserve_model_ready") > 0;
  state.draining = metrics.Value("sparseserve_server_draining") > 0;
  state.running = metrics.Value("sparseserve_requests_running");
  state.waiting = metrics.Value("sparseserve_requests_waiting");
  state.buffered_bytes = metrics.Value("sparseserve_stream_buffered_bytes");
  ReadPages(metrics, state);
  for (const auto& series : metrics.Family("sparseserve_memory_bytes")) {
    state.memory.push_back({std::string(series.Label("device")),
                            std::string(series.Label("kind")), series.value});
  }
  for (const auto& series : metrics.Family("sparseserve_memory_limit_bytes")) {
    state.memory_limits[std::string(series.Label("device"))] = series.value;
  }
  state.resident_bytes = metrics.Value("process_resident_memory_bytes");
  state.cpu_seconds = metrics.Value("process_cpu_seconds_total");
  state.start_time_seconds = metrics.Value("process_start_time_seconds");
  state.build = Labels(metrics, "sparseserve_build_info");
  state.model = Labels(metrics, "sparseserve_model_info");
  state.cache = Labels(metrics, "sparseserve_cache_config_info");
  for (const auto& series : metrics.Family("sparseserve_guard_plan_state")) {
    if (series.value > 0) {
      state.guard_states[std::string(series.Label("plan"))] =
          std::string(series.Label("state"));
    }
  }
  return state;
}

}  // namespace sparseserve
