#include "server/policy/pattern_decision.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <variant>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

int WindowOfLayer(const ModelInfo& model, int layer) {
  return model.layer_windows.empty() ? 0 : model.layer_windows[layer];
}

// The window that every layer of the checkpoint has; 0 if there is none.
int TrainedWindow(const ModelInfo& model) {
  if (model.layers == 0) return 0;
  const int window = WindowOfLayer(model, 0);
  for (int layer = 1; layer < model.layers; ++layer) {
    if (WindowOfLayer(model, layer) != window) return 0;
  }
  return window;
}

// Layers where the pattern decides what is seen. Rules that choose by scores
// leave the checkpoint's windows alone.
int RuledLayers(const PatternSpec& pattern, const ModelInfo& model) {
  const PatternSelection selection = SelectionOf(pattern);
  int layers = 0;
  for (int layer = 0; layer < model.layers; ++layer) {
    const bool chooses =
        layer >= selection.first_layer && WindowOfLayer(model, layer) == 0;
    if (!selection.rule.has_value() || chooses) ++layers;
  }
  return layers;
}

struct WhyNot {
  const ModelInfo& model;

  std::string operator()(const SlidingWindowPattern& pattern) const {
    const int window = TrainedWindow(model);
    if (window == 0) {
      return "the checkpoint was not trained with a window in every layer";
    }
    if (window == pattern.window_tokens) return "";
    return StrCat("the checkpoint was trained with a window of ", window,
                  " tokens, not of ", pattern.window_tokens);
  }

  template <typename Pattern>
  std::string operator()(const Pattern& pattern) const {
    if (TraitsOf(pattern).is_trained_in) {
      return "the checkpoint was not trained with it";
    }
    if (SelectionOf(pattern).rule.has_value() && TrainedWindow(model) != 0) {
      return "every layer of the checkpoint has a window of its own";
    }
    return "";
  }
};

}  // namespace

PatternDecision Decide(std::string plan, const PatternSpec& pattern,
                       const ModelInfo& model) {
  const size_t dense = PatternSpec(DensePattern()).index();
  PatternDecision decision;
  decision.plan = std::move(plan);
  decision.choice.pattern = pattern;
  decision.traits = TraitsOf(pattern);
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const bool rules = phase == Phase::kPrefill ? decision.traits.rules_prefill
                                                : decision.traits.rules_decode;
    const int layers = rules ? RuledLayers(pattern, model) : 0;
    PatternHeads& heads = decision.heads[static_cast<int>(phase)];
    heads[pattern.index()] += layers * model.kv_heads;
    heads[dense] += (model.layers - layers) * model.kv_heads;
  }
  return decision;
}

std::string WhyUnsupported(const PatternSpec& pattern, const ModelInfo& model) {
  return std::visit(WhyNot{model}, pattern);
}

std::vector<PatternSpec> SupportedPatterns(const ModelInfo& model) {
  std::vector<PatternSpec> supported;
  for (PatternSpec& pattern : EveryPattern()) {
    if (auto* const window = std::get_if<SlidingWindowPattern>(&pattern)) {
      window->window_tokens = std::max(TrainedWindow(model), 1);
    }
    if (WhyUnsupported(pattern, model).empty()) supported.push_back(pattern);
  }
  return supported;
}

}  // namespace sparseserve
