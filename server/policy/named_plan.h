#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/pattern/attention_choice.h"
#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// A choice of attention under the name by which requests ask for it.
struct NamedPlan {
  std::string name;
  AttentionChoice choice;
};

// A pattern and the heads of a model that follow it.
struct HeadRule {
  PatternSpec pattern;
  std::vector<int> layers = {};    // empty: all
  std::vector<int> kv_heads = {};  // of each of these layers; empty: all
};

// A plan as a config file has it, which knows no model.
struct PlanRule {
  std::string name;
  PatternSpec pattern = {};  // in every layer and head, if there is no map
  // If not empty, in place of `pattern`: of the rules for a head the last
  // counts; a head without one is dense.
  std::vector<HeadRule> map = {};
};

// The plans that the rules are for this model. INVALID_ARGUMENT names, as
// server_config.proto has it, the first pattern that the model may not run
// with, and why, or the first layer or head that it has not, or the map of
// which every head is pruned. `field` is what the list is called there.
// REQUIRES: the patterns pass CheckPattern().
absl::StatusOr<std::vector<NamedPlan>> ResolvePlans(
    const std::vector<PlanRule>& rules, const ModelInfo& model,
    std::string_view field = "attention_plans");

}  // namespace sparseserve
