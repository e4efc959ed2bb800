#include "client/tool/report_text.h"

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/duration.pb.h"

namespace sparseserve {
namespace {

double Milliseconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) * 1e3 +
         static_cast<double>(duration.nanos()) * 1e-6;
}

std::string FinishText(const v1::GenerationReport& report) {
  switch (report.finish_reason()) {
    case v1::FINISH_REASON_STOP:
      return "the model ended its answer";
    case v1::FINISH_REASON_LENGTH:
      return "the limit of output tokens or of the context was reached";
    case v1::FINISH_REASON_STOP_SEQUENCE:
      return report.matched_stop_string().empty()
                 ? "a stop token was drawn"
                 : absl::StrCat(
                       "stop string \"",
                       absl::Utf8SafeCEscape(report.matched_stop_string()),
                       "\"");
    default:
      return "for a reason this client does not know";
  }
}

std::string TimeText(const v1::Timings& timings) {
  std::string text =
      absl::StrCat("first token ", FormatTime(timings.time_to_first_token()),
                   " (queue ", FormatTime(timings.queue()), ", prefill ",
                   FormatTime(timings.prefill()), ")");
  if (timings.has_time_per_output_token()) {
    const double ms = Milliseconds(timings.time_per_output_token());
    absl::StrAppend(&text, ", then ",
                    FormatTime(timings.time_per_output_token()), " a token");
    if (ms > 0) absl::StrAppendFormat(&text, " (%.1f tokens/s)", 1e3 / ms);
  }
  return absl::StrCat(text, ", total ", FormatTime(timings.total()));
}

std::string TargetText(const v1::GenerationReport& report) {
  const v1::TargetOutcome& outcome = report.target_outcome();
  std::vector<std::string> parts;
  const auto add = [&parts](absl::string_view name, bool met) {
    parts.push_back(absl::StrCat(name, met ? " met" : " missed"));
  };
  if (outcome.has_time_to_first_token_met()) {
    add("first token", outcome.time_to_first_token_met());
    if (report.attention().has_slack()) {
      const double ms = Milliseconds(report.attention().slack());
      absl::StrAppendFormat(&parts.back(), " by %.1f ms", ms < 0 ? -ms : ms);
    }
  }
  if (outcome.has_time_per_output_token_met()) {
    add("time per token", outcome.time_per_output_token_met());
  }
  if (outcome.has_total_met()) add("total", outcome.total_met());
  return absl::StrJoin(parts, ", ");
}

// "dense", "xattention 93 %, dense 7 %"; behind "PLAN: " where that says more.
std::string PatternText(const v1::AttentionReport& attention) {
  std::vector<std::string> parts;
  for (const v1::PatternShare& share : attention.patterns()) {
    parts.push_back(share.pattern());
    if (attention.patterns_size() > 1) {
      absl::StrAppendFormat(&parts.back(), " %.0f %%", 100 * share.share());
    }
  }
  const std::string patterns = absl::StrJoin(parts, ", ");
  if (attention.plan().empty() || attention.plan() == patterns) return patterns;
  if (patterns.empty()) return attention.plan();
  return absl::StrCat(attention.plan(), ": ", patterns);
}

}  // namespace

std::string FormatTime(const google::protobuf::Duration& duration) {
  const double ms = Milliseconds(duration);
  if (ms >= 10'000) return absl::StrFormat("%.1f s", ms / 1e3);
  return absl::StrFormat("%.*f ms", ms < 100 ? 1 : 0, ms);
}

std::string AttentionText(const v1::AttentionReport& attention) {
  std::string text =
      absl::StrFormat("%s, density %.3f in prefill", PatternText(attention),
                      attention.prefill_density());
  if (attention.has_decode_density()) {
    absl::StrAppendFormat(&text, ", %.3f in decode",
                          attention.decode_density());
  }
  if (attention.has_recall_estimate()) {
    absl::StrAppendFormat(&text, "; recall %.4f", attention.recall_estimate());
    if (attention.recall_rows() > 0) {
      absl::StrAppendFormat(&text, " (5 %% below %.4f)", attention.recall_p5());
    }
  }
  if (attention.has_divergence_estimate()) {
    absl::StrAppendFormat(&text, "; divergence %.4f nats a token",
                          attention.divergence_estimate());
  }
  if (!attention.fallback_reason().empty()) {
    absl::StrAppend(&text, "; dense because ", attention.fallback_reason());
  }
  return text;
}

std::string ReportText(const v1::GenerationReport& report) {
  const v1::Usage& usage = report.usage();
  std::string text;
  const auto line = [&text](absl::string_view name, absl::string_view value) {
    absl::StrAppendFormat(&text, "%-10s %s\n", name, value);
  };
  line("model", report.model());
  line("finished", FinishText(report));
  line("tokens", absl::StrCat(usage.prompt_tokens(), " in the prompt (",
                              usage.cached_prompt_tokens(), " cached), ",
                              usage.output_tokens(), " generated"));
  line("time", TimeText(report.timings()));
  if (report.has_target_outcome()) line("target", TargetText(report));
  line("attention", AttentionText(report.attention()));
  line("seed", absl::StrCat(report.seed(), report.attention().reproducible()
                                               ? ", reproducible"
                                               : ", not reproducible"));
  line("request", report.request_id());
  return text;
}

}  // namespace sparseserve
