#include "server/simulation/simulation_report.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "absl/strings/str_format.h"
#include "engine/base/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/scheduling/ending.h"

namespace sparseserve {
namespace {

const char* NameOf(Ending ending) {
  switch (ending) {
    case Ending::kFinished:
      return "finished";
    case Ending::kCancelled:
      return "cancelled";
    case Ending::kDeadline:
      return "deadline";
    case Ending::kSlowConsumer:
      return "slow_consumer";
    case Ending::kDraining:
      return "draining";
    case Ending::kNumericFault:
      return "numeric_fault";
    case Ending::kDeviceFailed:
      return "device_failed";
    case Ending::kUnmeetable:
      return "deadline_unmeetable";
    case Ending::kTooShort:
      return "deadline_too_short";
  }
  return "unknown";
}

void Append(std::vector<double>& to, const std::vector<double>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

double PerSecond(int64_t count, absl::Duration elapsed) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

std::string PercentilesText(const std::vector<double>& seconds) {
  if (seconds.empty()) return "-";
  return absl::StrFormat("%.3g / %.3g / %.3g", *Percentile(seconds, 0.5),
                         *Percentile(seconds, 0.95),
                         *Percentile(seconds, 0.99));
}

std::string ClassText(const ClassOutcome& outcome, absl::Duration elapsed) {
  std::string text = absl::StrFormat(
      "%s: %d requests, %d finished, %d refused, %d failed\n"
      "  attainment %.1f %%, goodput %.3g requests/s, %.4g tokens/s\n"
      "  time to first token p50 / p95 / p99: %s s\n"
      "  time per output token: %s s\n",
      outcome.name(), outcome.requests(), outcome.finished, outcome.refused,
      outcome.failed, 100 * outcome.attainment(),
      PerSecond(outcome.met, elapsed),
      PerSecond(outcome.met_output_tokens, elapsed),
      PercentilesText(outcome.first_token_s),
      PercentilesText(outcome.per_token_s));
  for (const auto& [reason, count] : outcome.reasons) {
    text += absl::StrFormat("  %s: %d\n", reason, count);
  }
  return text;
}

nlohmann::json PercentilesJson(const std::vector<double>& seconds) {
  nlohmann::json json = {{"count", seconds.size()}};
  if (seconds.empty()) return json;
  for (const auto& [name, share] : {std::pair("p50_s", 0.5),
                                    {"p90_s", 0.9},
                                    {"p95_s", 0.95},
                                    {"p99_s", 0.99},
                                    {"max_s", 1.0}}) {
    json[name] = *Percentile(seconds, share);
  }
  return json;
}

nlohmann::json ClassJson(const ClassOutcome& outcome, absl::Duration elapsed) {
  return {
      {"name", outcome.name()},
      {"requests", outcome.requests()},
      {"finished", outcome.finished},
      {"refused", outcome.refused},
      {"failed", outcome.failed},
      {"reasons", outcome.reasons},
      {"met", outcome.met},
      {"attainment", outcome.attainment()},
      {"goodput_requests_per_s", PerSecond(outcome.met, elapsed)},
      {"goodput_tokens_per_s", PerSecond(outcome.met_output_tokens, elapsed)},
      {"output_tokens_per_s", PerSecond(outcome.output_tokens, elapsed)},
      {"prompt_tokens", outcome.prompt_tokens},
      {"cached_prompt_tokens", outcome.cached_prompt_tokens},
      {"output_tokens", outcome.output_tokens},
      {"unfinished_tokens", outcome.unfinished_tokens},
      {"time_to_first_token", PercentilesJson(outcome.first_token_s)},
      {"time_per_output_token", PercentilesJson(outcome.per_token_s)},
      {"total", PercentilesJson(outcome.total_s)},
  };
}

}  // namespace

std::optional<double> Percentile(std::vector<double> values, double share) {
  if (values.empty()) return std::nullopt;
  const auto count = static_cast<double>(values.size());
  const auto rank = static_cast<size_t>(
      std::clamp(std::ceil(share * count) - 1, 0.0, count - 1));
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

void ClassOutcome::Refused(const std::string& reason) {
  ++refused;
  ++reasons[reason];
}

void ClassOutcome::Ended(const Sequence& sequence) {
  if (IsRefusal(sequence.ending())) {
    Refused(NameOf(sequence.ending()));
    return;
  }
  const RequestSample sample = sequence.Sample();
  prompt_tokens += sample.prompt_tokens;
  output_tokens += sample.output_tokens;
  if (sample.time_to_first_token != absl::InfiniteDuration()) {
    first_token_s.push_back(absl::ToDoubleSeconds(sample.time_to_first_token));
  }
  if (sequence.ending() != Ending::kFinished) {
    ++failed;
    ++reasons[NameOf(sequence.ending())];
    unfinished_tokens += sequence.computed_tokens();
    return;
  }
  ++finished;
  cached_prompt_tokens += sequence.Report().cached_prompt_tokens;
  total_s.push_back(absl::ToDoubleSeconds(sample.total));
  const bool has_gaps = sample.time_per_output_token < absl::InfiniteDuration();
  if (has_gaps) {
    per_token_s.push_back(absl::ToDoubleSeconds(sample.time_per_output_token));
  }
  const LatencyTarget& target = asked_.target;
  if (sample.time_to_first_token > target.time_to_first_token ||
      (has_gaps &&
       sample.time_per_output_token > target.time_per_output_token) ||
      sample.total > target.total) {
    return;
  }
  ++met;
  met_output_tokens += sample.output_tokens;
}

void ClassOutcome::Add(const ClassOutcome& other) {
  finished += other.finished;
  refused += other.refused;
  failed += other.failed;
  met += other.met;
  for (const auto& [reason, count] : other.reasons) reasons[reason] += count;
  prompt_tokens += other.prompt_tokens;
  cached_prompt_tokens += other.cached_prompt_tokens;
  output_tokens += other.output_tokens;
  met_output_tokens += other.met_output_tokens;
  unfinished_tokens += other.unfinished_tokens;
  Append(first_token_s, other.first_token_s);
  Append(per_token_s, other.per_token_s);
  Append(total_s, other.total_s);
}

double ClassOutcome::attainment() const {
  if (requests() == 0) return 0;
  return static_cast<double>(met) / static_cast<double>(requests());
}

ClassOutcome SimulationReport::All() const {
  ClassOutcome all(SimulatedClass{.name = "all"});
  for (const ClassOutcome& outcome : classes) all.Add(outcome);
  return all;
}

Replica::Work SimulationReport::AllWork() const {
  Replica::Work all;
  for (const Replica::Work& work : replicas) {
    all.requests += work.requests;
    all.ended += work.ended;
    all.steps += work.steps;
    all.rows += work.rows;
    all.preemptions += work.preemptions;
    all.preempted_tokens += work.preempted_tokens;
    all.busy += work.busy;
    all.peak_kv_usage = std::max(all.peak_kv_usage, work.peak_kv_usage);
    all.peak_waiting = std::max(all.peak_waiting, work.peak_waiting);
  }
  return all;
}

double SimulationReport::Waste() const {
  const Replica::Work work = AllWork();
  if (work.rows == 0) return 0;
  return static_cast<double>(All().unfinished_tokens + work.preempted_tokens) /
         static_cast<double>(work.rows);
}

double SimulationReport::BusyShare(const Replica::Work& work) const {
  if (elapsed <= absl::ZeroDuration()) return 0;
  return absl::FDivDuration(work.busy, elapsed);
}

std::string ReportText(const SimulationReport& report) {
  const ClassOutcome all = report.All();
  const Replica::Work work = report.AllWork();
  std::string text = absl::StrFormat(
      "%d requests on %d replica%s (%s) in %s\n", all.requests(),
      report.replicas.size(), report.replicas.size() == 1 ? "" : "s",
      report.picker,
      absl::FormatDuration(absl::Trunc(report.elapsed, absl::Milliseconds(1))));
  for (const ClassOutcome& outcome : report.classes) {
    text += ClassText(outcome, report.elapsed);
  }
  if (report.classes.size() > 1) text += ClassText(all, report.elapsed);
  std::vector<double> busy;
  for (const Replica::Work& replica : report.replicas) {
    busy.push_back(report.BusyShare(replica));
  }
  text += absl::StrFormat(
      "computed %d tokens in %d steps, %.2f %% of them wasted: %d for requests "
      "that did not finish, %d computed again after %d preemptions\n"
      "prompt tokens found in prefix caches: %d of %d\n"
      "replicas busy %.1f %% (%.1f to %.1f %%), at most %.1f %% of KV pages "
      "and "
      "%d waiting requests\n",
      work.rows, work.steps, 100 * report.Waste(), all.unfinished_tokens,
      work.preempted_tokens, work.preemptions, all.cached_prompt_tokens,
      all.prompt_tokens,
      100 * report.BusyShare(work) / static_cast<double>(busy.size()),
      100 * *std::min_element(busy.begin(), busy.end()),
      100 * *std::max_element(busy.begin(), busy.end()),
      100 * work.peak_kv_usage, work.peak_waiting);
  return text;
}

std::string ReportJson(const SimulationReport& report) {
  const Replica::Work work = report.AllWork();
  nlohmann::json classes = nlohmann::json::array();
  for (const ClassOutcome& outcome : report.classes) {
    classes.push_back(ClassJson(outcome, report.elapsed));
  }
  nlohmann::json replicas = nlohmann::json::array();
  for (const Replica::Work& replica : report.replicas) {
    replicas.push_back({{"requests", replica.requests},
                        {"steps", replica.steps},
                        {"computed_tokens", replica.rows},
                        {"busy", report.BusyShare(replica)},
                        {"preemptions", replica.preemptions},
                        {"preempted_tokens", replica.preempted_tokens},
                        {"peak_kv_usage", replica.peak_kv_usage},
                        {"peak_waiting", replica.peak_waiting}});
  }
  const nlohmann::json json = {
      {"picker", report.picker},
      {"seed", report.seed},
      {"elapsed_s", absl::ToDoubleSeconds(report.elapsed)},
      {"all", ClassJson(report.All(), report.elapsed)},
      {"classes", classes},
      {"computed_tokens", work.rows},
      {"waste", report.Waste()},
      {"preemptions", work.preemptions},
      {"preempted_tokens", work.preempted_tokens},
      {"replicas", replicas}};
  return json.dump(2) + "\n";
}

}  // namespace sparseserve
