#include "client/load/load_report_text.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/load/histogram_comparison.h"
#include "google/protobuf/util/json_util.h"

namespace sparseserve {
namespace {

using client_load::ClassReport;
using client_load::LoadReport;
using client_load::ServerComparison;
using client_load::Times;

constexpr char kTimesHead[] = "%-12s %-15s %9s %9s %9s %9s %9s\n";

std::string Percentiles(const Times& times) {
  if (times.count() == 0) return "-";
  return absl::StrCat(FormatSeconds(times.p50_s()), " / ",
                      FormatSeconds(times.p95_s()), " / ",
                      FormatSeconds(times.p99_s()));
}

std::string Attainment(const ClassReport& report) {
  if (!report.has_attainment()) return "-";
  return absl::StrFormat("%.1f %%", 100 * report.attainment());
}

void AppendRow(const ClassReport& row, std::string& text) {
  absl::StrAppendFormat(
      &text, "%-12s %10d %10d %10s %12.3f %12.1f\n", row.name().substr(0, 12),
      row.requests(), row.finished(), Attainment(row),
      row.goodput_requests_per_s(), row.goodput_tokens_per_s());
}

void AppendTimes(absl::string_view class_name, absl::string_view what,
                 const Times& times, std::string& text) {
  if (times.count() == 0) return;
  absl::StrAppendFormat(
      &text, kTimesHead, class_name.substr(0, 12), what,
      FormatSeconds(times.mean_s()), FormatSeconds(times.p50_s()),
      FormatSeconds(times.p95_s()), FormatSeconds(times.p99_s()),
      FormatSeconds(times.max_s()));
}

void AppendAllTimes(const ClassReport& row, std::string& text) {
  AppendTimes(row.name(), "first token", row.time_to_first_token(), text);
  AppendTimes(row.name(), "between tokens", row.inter_token(), text);
  AppendTimes(row.name(), "total", row.total(), text);
}

// Classes, and all together where there are several.
std::vector<const ClassReport*> Rows(const LoadReport& report) {
  std::vector<const ClassReport*> rows;
  for (const ClassReport& row : report.classes()) rows.push_back(&row);
  if (rows.size() > 1) rows.push_back(&report.all());
  return rows;
}

void AppendReasons(const ClassReport& all, std::string& text) {
  for (const client_load::Reason& reason : all.reasons()) {
    absl::StrAppendFormat(&text, "%-12s %8d  %s\n", reason.outcome(),
                          reason.count(), reason.reason());
  }
}

std::string QuantileText(const ServerComparison::Quantile& quantile) {
  ComparedQuantile compared = {
      .metric = quantile.metric(),
      .share = quantile.share(),
      .client_seconds = quantile.client_s(),
      .server_above_seconds = quantile.server_above_s(),
      .server_at_most_seconds = quantile.has_server_at_most_s()
                                    ? quantile.server_at_most_s()
                                    : HUGE_VAL,
      .client_count = quantile.client_count(),
      .server_count = quantile.server_count(),
      .counts_agree = quantile.counts_agree()};
  return compared.Describe();
}

void AppendComparison(const LoadReport& report, std::string& text) {
  if (!report.has_server_comparison()) {
    absl::StrAppend(
        &text,
        "server       histograms not read; give --metrics=HOST:PORT to "
        "compare\n");
    return;
  }
  const ServerComparison& comparison = report.server_comparison();
  if (!comparison.error().empty()) {
    absl::StrAppend(&text, "server       NOT COMPARED: ", comparison.error(),
                    "\n");
    return;
  }
  if (comparison.agrees()) {
    absl::StrAppendFormat(
        &text, "server       its histograms agree in %d percentiles\n",
        comparison.quantiles_size());
  }
  for (const ServerComparison::Quantile& quantile : comparison.quantiles()) {
    if (quantile.agrees()) continue;
    absl::StrAppend(&text, "server       DISAGREES: ", QuantileText(quantile),
                    "\n");
  }
}

// Fields with commas or quotes are quoted.
std::string CsvField(absl::string_view field) {
  if (field.find_first_of(",\"\n") == field.npos) return std::string(field);
  return absl::StrCat("\"", absl::StrReplaceAll(field, {{"\"", "\"\""}}), "\"");
}

// Empty if infinite.
std::string CsvSeconds(absl::Duration time) {
  if (time == absl::InfiniteDuration()) return "";
  return absl::StrFormat("%.6f", absl::ToDoubleSeconds(time));
}

}  // namespace

std::string FormatSeconds(double seconds) {
  if (seconds < 0.001) return absl::StrFormat("%.0f us", seconds * 1e6);
  if (seconds < 0.01) return absl::StrFormat("%.2f ms", seconds * 1e3);
  if (seconds < 0.1) return absl::StrFormat("%.1f ms", seconds * 1e3);
  if (seconds < 1) return absl::StrFormat("%.0f ms", seconds * 1e3);
  return absl::StrFormat("%.2f s", seconds);
}

std::string LoadReportText(const LoadReport& report) {
  const ClassReport& all = report.all();
  std::string text = absl::StrFormat(
      "%s loop, seed %d: %d requests in %.1f s, %.3f/s, %.1f output "
      "tokens/s%s\n",
      report.loop(), report.seed(), all.requests(), report.elapsed_s(),
      all.requests_per_s(), all.output_tokens_per_s(),
      report.interrupted() ? " (interrupted)" : "");
  absl::StrAppendFormat(
      &text, "tokens       %.0f of prompts (%.0f cached), %.0f generated\n\n",
      all.prompt_tokens(), all.cached_prompt_tokens(), all.output_tokens());
  absl::StrAppendFormat(&text, "%-12s %10s %10s %10s %12s %12s\n", "class",
                        "requests", "finished", "attained", "goodput/s",
                        "its tokens/s");
  for (const ClassReport* row : Rows(report)) AppendRow(*row, text);
  absl::StrAppend(&text, "\n");
  absl::StrAppendFormat(&text, kTimesHead, "class", "time", "mean", "p50",
                        "p95", "p99", "max");
  for (const ClassReport* row : Rows(report)) AppendAllTimes(*row, text);
  absl::StrAppend(&text, "\n");
  AppendReasons(all, text);
  if (report.generator_lag().count() > 0) {
    absl::StrAppendFormat(
        &text, "generator    late by %s / %s (p50 / 95 / 99 / max)\n",
        Percentiles(report.generator_lag()),
        FormatSeconds(report.generator_lag().max_s()));
  }
  if (report.generator_lagged()) {
    absl::StrAppend(
        &text,
        "generator    WARNING: it was late, and all latencies include "
        "that. Send fewer\n"
        "             requests from here, or give it a core that "
        "the server does not use\n");
  }
  AppendComparison(report, text);
  return text;
}

std::string LoadReportJson(const LoadReport& report) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Cannot fail: the report has no Any and no text that is not UTF-8 of ours.
  const auto status =
      google::protobuf::util::MessageToJsonString(report, &json, options);
  return status.ok() ? json : absl::StrCat("{}\n");
}

std::string RequestCsvHeader() {
  return "index,class,intended_s,sent_s,prompt_tokens,output_tokens,outcome,"
         "reason,verdict,time_to_first_token_s,total_s,retry_delay_s\n";
}

std::string RequestCsvLine(const LoadClass& load_class,
                           const PlannedRequest& planned,
                           const RequestOutcome& outcome, Verdict verdict) {
  constexpr absl::string_view kKinds[] = {"finished",  "refused",     "expired",
                                          "cancelled", "interrupted", "failed"};
  constexpr absl::string_view kVerdicts[] = {"met", "missed", "unknown"};
  const absl::Duration first = outcome.first_token == absl::InfiniteDuration()
                                   ? absl::InfiniteDuration()
                                   : outcome.first_token - planned.intended;
  return absl::StrCat(
      planned.index, ",", CsvField(load_class.name), ",",
      CsvSeconds(planned.intended), ",", CsvSeconds(outcome.sent), ",",
      planned.prompt_tokens, ",", outcome.output_tokens, ",",
      kKinds[static_cast<size_t>(outcome.kind)], ",", CsvField(outcome.reason),
      ",", kVerdicts[static_cast<size_t>(verdict)], ",", CsvSeconds(first), ",",
      CsvSeconds(outcome.ended - planned.intended), ",",
      CsvSeconds(outcome.retry_delay.value_or(absl::InfiniteDuration())), "\n");
}

}  // namespace sparseserve
