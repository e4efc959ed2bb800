#include "server/simulation/step_costs.h"

#include <array>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr char kMetric[] = "sparseserve_step_cost_seconds{";

struct Term {
  const char* name;
  double StepCosts::*seconds;
};
constexpr std::array<Term, 5> kTerms = {{
    {"constant", &StepCosts::constant},
    {"decode_row", &StepCosts::decode_row},
    {"prompt_row", &StepCosts::prompt_row},
    {"decode_block", &StepCosts::decode_block},
    {"prompt_block", &StepCosts::prompt_block},
}};

absl::string_view View(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

absl::StatusOr<StepCosts> CheckCosts(const StepCosts& costs) {
  // Time would stand still.
  if (costs.constant > 0 || (costs.decode_row > 0 && costs.prompt_row > 0)) {
    return costs;
  }
  return absl::InvalidArgumentError(
      "step costs: constant, or both decode_row and prompt_row, must be above "
      "0");
}

}  // namespace

absl::StatusOr<StepCosts> ParseStepCosts(std::string_view text) {
  StepCosts costs;
  for (const absl::string_view part :
       absl::StrSplit(View(text), ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    absl::Duration time;
    bool is_known = false;
    const bool is_time = absl::ParseDuration(entry.second, &time) &&
                         time >= absl::ZeroDuration() && time <= absl::Hours(1);
    for (const Term& term : kTerms) {
      if (entry.first != term.name) continue;
      is_known = true;
      costs.*term.seconds = absl::ToDoubleSeconds(time);
    }
    if (!is_known || !is_time) {
      return absl::InvalidArgumentError(
          StrCat("step costs: \"", part,
                 "\": expected constant, decode_row, prompt_row, decode_block "
                 "or prompt_block = a time of 0 to 1h such as 0.5ms"));
    }
  }
  return CheckCosts(costs);
}

absl::StatusOr<StepCosts> ReadScrapedCosts(std::string_view metrics) {
  StepCosts costs;
  std::array<bool, kTerms.size()> found = {};
  for (const absl::string_view line : absl::StrSplit(View(metrics), '\n')) {
    if (!absl::StartsWith(line, kMetric)) continue;
    const size_t space = line.rfind(' ');
    double seconds = 0;
    if (!absl::SimpleAtod(line.substr(space + 1), &seconds) ||
        !(seconds >= 0 && seconds <= 3600)) {
      return absl::InvalidArgumentError(
          StrCat("\"", line, "\" is no time of 0 to 3600 s"));
    }
    for (size_t i = 0; i < kTerms.size(); ++i) {
      if (!absl::StrContains(line, StrCat("term=\"", kTerms[i].name, "\""))) {
        continue;
      }
      found[i] = true;
      costs.*kTerms[i].seconds = seconds;
    }
  }
  for (size_t i = 0; i < kTerms.size(); ++i) {
    if (found[i]) continue;
    return absl::NotFoundError(
        StrCat("there is no ", kMetric, "term=\"", kTerms[i].name, "\"}"));
  }
  return CheckCosts(costs);
}

}  // namespace sparseserve
