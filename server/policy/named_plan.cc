#include "server/policy/named_plan.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <variant>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/pattern/pattern_map.h"
#include "server/policy/pattern_decision.h"

namespace sparseserve {
namespace {

absl::Status CheckSuits(std::string_view field, const PatternSpec& pattern,
                        const ModelInfo& model) {
  const std::string why = WhyUnsupported(pattern, model);
  if (why.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(field, ".pattern is ", PatternName(pattern),
             ", which this model cannot have: ", why));
}

// What is listed, or all of `count`.
absl::StatusOr<std::vector<int>> Listed(std::string_view field,
                                        const std::vector<int>& listed,
                                        int count) {
  for (size_t i = 0; i < listed.size(); ++i) {
    if (listed[i] >= 0 && listed[i] < count) continue;
    return absl::InvalidArgumentError(StrCat(field, "[", i, "] is ", listed[i],
                                             ", must be from 0 to ", count - 1,
                                             " with this model"));
  }
  if (!listed.empty()) return listed;
  std::vector<int> all(count);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

absl::StatusOr<PatternMap> ResolveMap(std::string_view field,
                                      const std::vector<HeadRule>& rules,
                                      const ModelInfo& model) {
  std::vector<PatternSpec> patterns = {DensePattern()};
  std::vector<int32_t> pattern_of(int64_t{model.layers} * model.kv_heads, 0);
  for (size_t i = 0; i < rules.size(); ++i) {
    const std::string rule = StrCat(field, ".rules[", i, "]");
    if (!std::holds_alternative<PrunedPattern>(rules[i].pattern)) {
      RETURN_IF_ERROR(CheckSuits(rule, rules[i].pattern, model));
    }
    ASSIGN_OR_RETURN(
        const std::vector<int> layers,
        Listed(StrCat(rule, ".layers"), rules[i].layers, model.layers));
    ASSIGN_OR_RETURN(
        const std::vector<int> heads,
        Listed(StrCat(rule, ".kv_heads"), rules[i].kv_heads, model.kv_heads));
    const auto pattern = static_cast<int32_t>(patterns.size());
    patterns.push_back(rules[i].pattern);
    for (const int layer : layers) {
      for (const int head : heads) {
        pattern_of[int64_t{layer} * model.kv_heads + head] = pattern;
      }
    }
  }
  // A map has no more patterns than heads, and rules may have been overruled.
  std::vector<PatternSpec> used;
  std::vector<int32_t> place(patterns.size(), -1);
  for (int32_t& pattern : pattern_of) {
    if (place[pattern] < 0) {
      place[pattern] = static_cast<int32_t>(used.size());
      used.push_back(patterns[pattern]);
    }
    pattern = place[pattern];
  }
  if (std::all_of(used.begin(), used.end(), [](const PatternSpec& pattern) {
        return std::holds_alternative<PrunedPattern>(pattern);
      })) {
    return absl::InvalidArgumentError(
        StrCat(field, " is pruned in all ", pattern_of.size(),
               " heads of this model; at least 1 must have another pattern"));
  }
  return PatternMap::Create({model.layers, model.kv_heads}, std::move(used),
                            pattern_of);
}

}  // namespace

absl::StatusOr<std::vector<NamedPlan>> ResolvePlans(
    const std::vector<PlanRule>& rules, const ModelInfo& model,
    std::string_view list) {
  std::vector<NamedPlan> plans;
  for (size_t i = 0; i < rules.size(); ++i) {
    const std::string field = StrCat(list, "[", i, "]");
    NamedPlan plan = {rules[i].name, {.pattern = rules[i].pattern}};
    if (rules[i].map.empty()) {
      RETURN_IF_ERROR(CheckSuits(field, rules[i].pattern, model));
    } else {
      ASSIGN_OR_RETURN(PatternMap map,
                       ResolveMap(StrCat(field, ".map"), rules[i].map, model));
      plan.choice.map = std::make_shared<const PatternMap>(std::move(map));
    }
    plans.push_back(std::move(plan));
  }
  return plans;
}

}  // namespace sparseserve
