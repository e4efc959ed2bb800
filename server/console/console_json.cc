#include "server/console/console_json.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using nlohmann::json;

constexpr std::array<const char*, kPhases> kPhaseNames = {"prefill", "decode"};

// JSON has no NaN.
json NumberOrNull(double value) {
  return std::isfinite(value) ? json(value) : json(nullptr);
}

json DistributionJson(const Distribution& distribution) {
  return {{"count", distribution.Count()},
          {"mean", NumberOrNull(distribution.Mean())},
          {"p5", NumberOrNull(distribution.Quantile(.05))},
          {"p50", NumberOrNull(distribution.Quantile(.5))},
          {"p95", NumberOrNull(distribution.Quantile(.95))},
          {"p99", NumberOrNull(distribution.Quantile(.99))}};
}

json TargetsJson(const ServiceTotals::Targets& targets) {
  return {{"met", targets.met}, {"missed", targets.missed}};
}

json PhaseJson(const ServiceTotals::PhaseTotals& phase) {
  const double allowed = phase.computed_blocks + phase.skipped_blocks;
  return {
      {"step_seconds", DistributionJson(phase.step_seconds)},
      {"batch_requests", DistributionJson(phase.batch_requests)},
      {"batch_tokens", DistributionJson(phase.batch_tokens)},
      {"computed_blocks", phase.computed_blocks},
      {"skipped_blocks", phase.skipped_blocks},
      {"density", allowed > 0 ? json(phase.computed_blocks / allowed) : json()},
      {"heads", phase.heads},
      {"fallbacks", phase.fallbacks},
  };
}

json PeriodJson(absl::Duration length, const ServiceTotals& totals) {
  json targets = json::object();
  for (const auto& [name, counts] : totals.targets) {
    targets[name] = TargetsJson(counts);
  }
  json recall = json::object();
  for (const auto& [pattern, shares] : totals.recall) {
    recall[pattern] = DistributionJson(shares);
  }
  json plans = json::object();
  for (const auto& [name, plan] : totals.plans) {
    plans[name] = {{"prefill_requests", plan.requests[0]},
                   {"decode_requests", plan.requests[1]},
                   {"targets", TargetsJson(plan.targets)},
                   {"demotions", plan.demotions}};
  }
  json phases = json::object();
  for (int p = 0; p < kPhases; ++p) {
    phases[kPhaseNames[p]] = PhaseJson(totals.phases[p]);
  }
  return {
      {"seconds", absl::ToDoubleSeconds(length)},
      {"time_to_first_token", DistributionJson(totals.time_to_first_token)},
      {"time_per_output_token", DistributionJson(totals.time_per_output_token)},
      {"inter_token_latency", DistributionJson(totals.inter_token_latency)},
      {"queue_time", DistributionJson(totals.queue_time)},
      {"total_time", DistributionJson(totals.total_time)},
      {"targets", targets},
      {"finished", totals.finished},
      {"rejected", totals.rejected},
      {"cancelled", totals.cancelled},
      {"generation_tokens", totals.generation_tokens},
      {"prompt_tokens", totals.prompt_tokens},
      {"wasted_tokens", totals.wasted_tokens},
      {"prefix_query_tokens", totals.prefix_query_tokens},
      {"prefix_hit_tokens", totals.prefix_hit_tokens},
      {"evicted_pages", totals.evicted_pages},
      {"preemptions", totals.preemptions},
      {"stage_seconds", totals.stage_seconds},
      {"phases", phases},
      {"recall", recall},
      {"plans", plans},
  };
}

json StateJson(const ServiceState& state) {
  json memory = json::array();
  for (const ServiceState::Memory& held : state.memory) {
    memory.push_back(
        {{"device", held.device}, {"kind", held.kind}, {"bytes", held.bytes}});
  }
  return {
      {"ready", state.ready},
      {"draining", state.draining},
      {"running", state.running},
      {"waiting", state.waiting},
      {"buffered_bytes", state.buffered_bytes},
      {"kv_pages",
       {{"used", state.used_pages},
        {"cached", state.cached_pages},
        {"free", state.free_pages},
        {"usage", state.kv_usage}}},
      {"memory", memory},
      {"memory_limit_bytes", state.memory_limits},
      {"resident_bytes", state.resident_bytes},
      {"cpu_seconds", state.cpu_seconds},
      {"guard_states", state.guard_states},
  };
}

json HistoryJson(const ServiceHistory& history) {
  using Point = ServiceHistory::Point;
  const auto column = [&history](double Point::*figure) {
    json values = json::array();
    for (const Point& point : history.points()) {
      // Four digits: it is drawn, not read.
      const double value = point.*figure;
      const double scale =
          value > 0 ? std::pow(10, 3 - std::floor(std::log10(value))) : 1;
      values.push_back(NumberOrNull(std::round(value * scale) / scale));
    }
    return values;
  };
  return {
      {"running", column(&Point::running)},
      {"waiting", column(&Point::waiting)},
      {"output_tokens_per_second", column(&Point::output_tokens_per_second)},
      {"prompt_tokens_per_second", column(&Point::prompt_tokens_per_second)},
      {"output_tokens_per_step", column(&Point::output_tokens_per_step)},
      {"prompt_tokens_per_step", column(&Point::prompt_tokens_per_step)},
      {"first_token_p50", column(&Point::first_token_p50)},
      {"first_token_p95", column(&Point::first_token_p95)},
  };
}

}  // namespace

std::string ConsoleJson(const ServiceState& state, const ServiceTotals& totals,
                        const ServiceHistory& history, absl::Time now,
                        absl::Time wall_time) {
  const double unix_time = absl::ToDoubleSeconds(wall_time - absl::UnixEpoch());
  const double uptime = std::max(unix_time - state.start_time_seconds, 0.0);
  json fallbacks = json::array();
  for (const ServiceHistory::Fallback& fallback : history.fallbacks()) {
    fallbacks.push_back(
        {{"seconds_ago", absl::ToDoubleSeconds(now - fallback.time)},
         {"phase", fallback.phase},
         {"reason", fallback.reason},
         {"requests", fallback.requests}});
  }
  const ServiceHistory::Period minute = history.LastMinute(now, totals);
  const json report = {
      {"unix_time", unix_time},
      {"uptime_seconds", uptime},
      {"build", state.build},
      {"model", state.model},
      {"cache", state.cache},
      {"now", StateJson(state)},
      {"minute", PeriodJson(minute.length, minute.added)},
      {"all", PeriodJson(absl::Seconds(uptime), totals)},
      {"history", HistoryJson(history)},
      {"recent_fallbacks", fallbacks},
  };
  // Labels are printable ASCII; were one not, it would not end the server.
  return report.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace sparseserve
