#include "client/tool/top_text.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"

namespace sparseserve {
namespace {

constexpr char kNone[] = "-";
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Three digits, whatever the size.
std::string Digits(double value) {
  if (!std::isfinite(value)) return kNone;
  if (value >= 100 || value == 0) return absl::StrFormat("%.0f", value);
  if (value >= 10) return absl::StrFormat("%.1f", value);
  return absl::StrFormat("%.2f", value);
}

std::string Seconds(double value) {
  if (!std::isfinite(value)) return kNone;
  if (value >= 1 || value == 0) return absl::StrCat(Digits(value), " s");
  if (value >= 1e-3) return absl::StrCat(Digits(value * 1e3), " ms");
  return absl::StrCat(Digits(value * 1e6), " us");
}

std::string Bytes(double value) {
  if (!std::isfinite(value)) return kNone;
  size_t unit = 0;
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return absl::StrCat(Digits(value), " ", kUnits[unit]);
}

std::string Count(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.0f", value) : kNone;
}

std::string Percent(double part, double whole) {
  return whole > 0 ? absl::StrCat(Digits(100 * part / whole), " %") : kNone;
}

std::string Age(double seconds) {
  if (!std::isfinite(seconds)) return kNone;
  return absl::FormatDuration(absl::Seconds(std::floor(seconds)));
}

std::string Words(absl::string_view name) {
  return absl::StrReplaceAll(name, {{"_", " "}});
}

// The figures of one period.
class Figures {
 public:
  Figures(const ConsoleReport& report, const char* period)
      : report_(report), period_(period) {}

  double Number(absl::string_view a) const {
    return report_.Number({period_, a});
  }
  double Number(absl::string_view a, absl::string_view b) const {
    return report_.Number({period_, a, b});
  }
  double Number(absl::string_view a, absl::string_view b,
                absl::string_view c) const {
    return report_.Number({period_, a, b, c});
  }
  double Number(absl::string_view a, absl::string_view b, absl::string_view c,
                absl::string_view d) const {
    return report_.Number({period_, a, b, c, d});
  }
  std::vector<std::string> Members(absl::string_view a) const {
    return report_.Members({period_, a});
  }
  double Sum(absl::string_view a) const {
    double sum = 0;
    for (const std::string& name : Members(a)) sum += Number(a, name);
    return sum;
  }
  double OfHeads(const char* phase, absl::string_view pattern) const {
    return Number("phases", phase, "heads", pattern);
  }
  double Heads(const char* phase) const {
    double sum = 0;
    for (const std::string& pattern :
         report_.Members({period_, "phases", phase, "heads"})) {
      sum += OfHeads(phase, pattern);
    }
    return sum;
  }
  std::string Met(std::initializer_list<absl::string_view> at) const {
    const std::vector<absl::string_view> names(at);
    const bool of_plan = names.size() == 2;
    const auto of = [&](absl::string_view outcome) {
      return of_plan ? Number("plans", names[0], names[1], outcome)
                     : Number("targets", names[0], outcome);
    };
    const double met = of("met"), all = met + of("missed");
    return all > 0 ? absl::StrCat(Percent(met, all), " of ", Count(all))
                   : kNone;
  }

 private:
  const ConsoleReport& report_;
  const absl::string_view period_;
};

// Each column the largest of its stretch, by eighths of a line's height.
std::string Plot(const std::vector<double>& values, int columns) {
  constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  constexpr int kSeconds = 300;
  double highest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) highest = std::max(highest, value);
  }
  std::string plot;
  const int count = static_cast<int>(values.size());
  for (int column = 0; column < columns; ++column) {
    double largest = kNaN;
    // The latest value stands last.
    const int begin = count - kSeconds * (columns - column) / columns;
    const int end = count - kSeconds * (columns - column - 1) / columns;
    for (int i = std::max(begin, 0); i < end; ++i) {
      if (!(largest >= values[i])) largest = values[i];
    }
    if (!std::isfinite(largest)) {
      plot += " ";
    } else {
      const double share = highest > 0 ? largest / highest : 0;
      plot +=
          kBlocks[std::clamp(static_cast<int>(std::lround(share * 7)), 0, 7)];
    }
  }
  return plot;
}

std::string Bar(double share, int columns) {
  const int full =
      std::clamp(static_cast<int>(
                     std::lround((std::isfinite(share) ? share : 0) * columns)),
                 0, columns);
  std::string bar = "[";
  for (int i = 0; i < columns; ++i) bar += i < full ? "█" : "·";
  return bar + "]";
}

void AddTitle(const ConsoleReport& report, std::vector<StyledLine>& lines) {
  absl::string_view name;
  const std::string model = report.Text({"model", "model_name"});
  name = model;
  absl::ConsumePrefix(&name, "models/");
  StyledLine title(name.empty() ? "sparseserve" : name, TextStyle::kHeading);
  title.Add("  ");
  if (report.IsTrue({"now", "draining"})) {
    title.Add("draining", TextStyle::kWarning);
  } else if (report.IsTrue({"now", "ready"})) {
    title.Add("serving", TextStyle::kGood);
  } else {
    title.Add("not ready", TextStyle::kBad);
  }
  title.Add(absl::StrCat("  up ", Age(report.Number({"uptime_seconds"}))));
  lines.push_back(title);
  std::vector<std::string> parts;
  for (std::string part :
       {report.Text({"model", "architecture"}), report.Text({"model", "dtype"}),
        report.Text({"build", "accelerator"}), report.Text({"build", "simd"}),
        absl::StrCat("sparseserve ", report.Text({"build", "version"}))}) {
    if (!part.empty()) parts.push_back(std::move(part));
  }
  lines.emplace_back(absl::StrJoin(parts, ", "), TextStyle::kWeak);
}

void AddPlots(const ConsoleReport& report, int columns,
              std::vector<StyledLine>& lines) {
  struct Row {
    const char* name;
    const char* field;
    std::string (*format)(double);
  };
  constexpr int kPlotAt = 31;
  lines.emplace_back();
  lines.push_back(StyledLine("Last five minutes", TextStyle::kHeading)
                      .Right(kPlotAt - 1, "now", TextStyle::kWeak));
  for (const Row& row : {
           Row{"requests running", "running", Count},
           Row{"requests waiting", "waiting", Count},
           Row{"output tokens/s", "output_tokens_per_second", Digits},
           Row{"prompt tokens/s", "prompt_tokens_per_second", Digits},
           Row{"first token p50", "first_token_p50", Seconds},
           Row{"first token p95", "first_token_p95", Seconds},
           Row{"output tokens/step", "output_tokens_per_step", Digits},
           Row{"prompt tokens/step", "prompt_tokens_per_step", Digits},
       }) {
    const std::vector<double> values = report.Numbers({"history", row.field});
    lines.push_back(
        StyledLine(row.name)
            .Right(kPlotAt - 1,
                   row.format(values.empty() ? kNaN : values.back()))
            .Tab(kPlotAt)
            .Add(Plot(values, std::clamp(columns - kPlotAt, 10, 300))));
  }
}

void AddLatency(const Figures& figures, std::vector<StyledLine>& lines) {
  lines.emplace_back();
  lines.push_back(StyledLine("Latency", TextStyle::kHeading)
                      .Right(28, "count", TextStyle::kWeak)
                      .Right(38, "p50", TextStyle::kWeak)
                      .Right(48, "p95", TextStyle::kWeak)
                      .Right(58, "p99", TextStyle::kWeak)
                      .Right(78, "targets met", TextStyle::kWeak));
  struct Row {
    const char *name, *field, *target;
  };
  for (const Row& row : {
           Row{"first token", "time_to_first_token", "time_to_first_token"},
           Row{"per output token", "time_per_output_token",
               "time_per_output_token"},
           Row{"between tokens", "inter_token_latency", "none"},
           Row{"in the queue", "queue_time", "none"},
           Row{"whole request", "total_time", "total"},
       }) {
    lines.push_back(StyledLine(row.name)
                        .Right(28, Count(figures.Number(row.field, "count")))
                        .Right(38, Seconds(figures.Number(row.field, "p50")))
                        .Right(48, Seconds(figures.Number(row.field, "p95")))
                        .Right(58, Seconds(figures.Number(row.field, "p99")))
                        .Right(78, figures.Met({row.target})));
  }
}

void AddAttention(const ConsoleReport& report, const Figures& figures,
                  std::vector<StyledLine>& lines) {
  const auto density = [&](const char* phase) {
    const double value = figures.Number("phases", phase, "density");
    return std::isfinite(value) ? absl::StrFormat("%.3f", value) : kNone;
  };
  lines.emplace_back();
  lines.push_back(StyledLine("Attention", TextStyle::kHeading)
                      .Right(28, "prompts", TextStyle::kWeak)
                      .Right(38, "output", TextStyle::kWeak)
                      .Right(48, "recall", TextStyle::kWeak)
                      .Right(58, "p5", TextStyle::kWeak)
                      .Right(78, "rows", TextStyle::kWeak));
  lines.push_back(StyledLine("density")
                      .Right(28, density("prefill"))
                      .Right(38, density("decode")));
  for (const std::string& pattern :
       report.Members({"all", "phases", "prefill", "heads"})) {
    const double prompts = figures.OfHeads("prefill", pattern);
    const double output = figures.OfHeads("decode", pattern);
    const double rows = figures.Number("recall", pattern, "count");
    if (!(prompts > 0) && !(output > 0) && !(rows > 0)) continue;
    const auto recall = [&](const char* which) {
      const double value = figures.Number("recall", pattern, which);
      return std::isfinite(value) ? absl::StrFormat("%.3f", value) : kNone;
    };
    lines.push_back(StyledLine(Words(pattern))
                        .Right(28, Percent(prompts, figures.Heads("prefill")))
                        .Right(38, Percent(output, figures.Heads("decode")))
                        .Right(48, recall("mean"))
                        .Right(58, recall("p5"))
                        .Right(78, Count(rows)));
  }
}

void AddPlans(const ConsoleReport& report, const Figures& figures,
              std::vector<StyledLine>& lines) {
  const std::vector<std::string> plans = figures.Members("plans");
  if (plans.empty()) return;
  lines.emplace_back();
  lines.push_back(StyledLine("Plans", TextStyle::kHeading)
                      .Right(28, "prompts", TextStyle::kWeak)
                      .Right(38, "output", TextStyle::kWeak)
                      .Right(58, "targets met", TextStyle::kWeak)
                      .Right(78, "guard", TextStyle::kWeak));
  for (const std::string& plan : plans) {
    const std::string guard = report.Text({"now", "guard_states", plan});
    lines.push_back(
        StyledLine(plan)
            .Right(28, Count(figures.Number("plans", plan, "prefill_requests")))
            .Right(38, Count(figures.Number("plans", plan, "decode_requests")))
            .Right(58, figures.Met({plan, "targets"}))
            .Right(
                78, guard.empty() ? kNone : guard,
                guard == "demoted" ? TextStyle::kWarning : TextStyle::kPlain));
  }
}

void AddMemory(const ConsoleReport& report, std::vector<StyledLine>& lines) {
  const auto pages = [&report](const char* state) {
    return report.Number({"now", "kv_pages", state});
  };
  const double all = pages("used") + pages("cached") + pages("free");
  lines.emplace_back();
  lines.push_back(StyledLine("KV pages", TextStyle::kHeading)
                      .Tab(19)
                      .Add(Bar(report.Number({"now", "kv_pages", "usage"}), 20))
                      .Add(absl::StrCat("  ", Percent(pages("used"), all), ": ",
                                        Count(pages("used")), " used, ",
                                        Count(pages("cached")), " cached, ",
                                        Count(pages("free")), " free")));
  std::vector<std::string> owners;
  for (const ConsoleReport& held : report.Objects({"now", "memory"})) {
    owners.push_back(absl::StrCat(Words(held.Text({"kind"})), " ",
                                  Bytes(held.Number({"bytes"}))));
  }
  owners.push_back(absl::StrCat(
      "resident ", Bytes(report.Number({"now", "resident_bytes"}))));
  lines.push_back(StyledLine("Memory", TextStyle::kHeading)
                      .Tab(19)
                      .Add(absl::StrJoin(owners, ", ")));
}

// "stop 12, length 3"; of nothing "none".
std::string NonZero(const Figures& figures, const char* field) {
  std::vector<std::string> parts;
  for (const std::string& name : figures.Members(field)) {
    const double count = figures.Number(field, name);
    if (count > 0)
      parts.push_back(absl::StrCat(Words(name), " ", Count(count)));
  }
  return parts.empty() ? "none" : absl::StrJoin(parts, ", ");
}

void AddWork(const Figures& figures, std::vector<StyledLine>& lines) {
  std::vector<std::string> stages;
  for (const std::string& stage : figures.Members("stage_seconds")) {
    stages.push_back(
        absl::StrCat(Words(stage), " ",
                     Percent(figures.Number("stage_seconds", stage),
                             figures.Sum("stage_seconds"))));
  }
  const auto row = [&lines](const char* name, const std::string& text) {
    lines.push_back(StyledLine(name, TextStyle::kHeading).Tab(19).Add(text));
  };
  row("Steps", absl::StrJoin(stages, ", "));
  row("Prefix cache",
      absl::StrCat(Percent(figures.Number("prefix_hit_tokens"),
                           figures.Number("prefix_query_tokens")),
                   " hits, ", Count(figures.Number("preemptions")),
                   " preemptions, ", Count(figures.Number("evicted_pages")),
                   " pages evicted"));
  row("Finished", NonZero(figures, "finished"));
  row("Rejected", NonZero(figures, "rejected"));
  row("Cancelled by", NonZero(figures, "cancelled"));
}

void AddFallbacks(const ConsoleReport& report, std::vector<StyledLine>& lines) {
  const std::vector<ConsoleReport> recent =
      report.Objects({"recent_fallbacks"});
  constexpr size_t kShown = 3;
  std::vector<std::string> parts;
  for (size_t i = 0; i < std::min(recent.size(), kShown); ++i) {
    parts.push_back(absl::StrCat(Age(recent[i].Number({"seconds_ago"})),
                                 " ago ", Words(recent[i].Text({"reason"})),
                                 " (", recent[i].Text({"phase"}), ") x",
                                 Count(recent[i].Number({"requests"}))));
  }
  lines.push_back(StyledLine("Fallbacks", TextStyle::kHeading)
                      .Tab(19)
                      .Add(parts.empty() ? "none since the server started"
                                         : absl::StrJoin(parts, ", ")));
}

}  // namespace

std::vector<StyledLine> TopText(const ConsoleReport& report,
                                const TopView& view) {
  const Figures figures(report, view.since_start ? "all" : "minute");
  std::vector<StyledLine> lines;
  AddTitle(report, lines);
  AddPlots(report, view.columns, lines);
  lines.emplace_back();
  lines.emplace_back(
      view.since_start ? "Since the server started" : "In the last minute",
      TextStyle::kWeak);
  // The heading stands for the empty line.
  const size_t heading = lines.size();
  AddLatency(figures, lines);
  lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(heading));
  AddAttention(report, figures, lines);
  AddPlans(report, figures, lines);
  AddMemory(report, lines);
  AddWork(figures, lines);
  AddFallbacks(report, lines);
  return lines;
}

}  // namespace sparseserve
