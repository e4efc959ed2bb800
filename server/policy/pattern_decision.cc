#include "server/policy/pattern_decision.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <type_traits>
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

// Whether the pattern decides what is seen in the layer. Rules that choose by
// scores leave the checkpoint's windows alone.
bool Rules(const PatternSpec& pattern, Phase phase, const ModelInfo& model,
           int layer) {
  const PatternTraits traits = TraitsOf(pattern);
  if (!(phase == Phase::kPrefill ? traits.rules_prefill
                                 : traits.rules_decode)) {
    return false;
  }
  if (std::holds_alternative<SkipSoftmaxPattern>(pattern)) return true;
  const PatternSelection selection = SelectionOf(pattern);
  return !selection.rule.has_value() ||
         (layer >= selection.first_layer && WindowOfLayer(model, layer) == 0);
}

// PatternDecision::prompt_end_blocks.
int PromptEndBlocks(const PatternSpec& pattern) {
  if (const auto* tri = std::get_if<TriShapePattern>(&pattern)) {
    return tri->dense_blocks;
  }
  const auto of_base = [](const auto& base) {
    return PromptEndBlocks(PatternSpec(base));
  };
  if (const auto* delta = std::get_if<DeltaPattern>(&pattern)) {
    return std::visit(of_base, delta->base);
  }
  if (const auto* skip = std::get_if<SkipSoftmaxPattern>(&pattern)) {
    return std::visit(of_base, skip->base);
  }
  return SelectionOf(pattern).is_last_block_dense ? 1 : 0;
}

int PromptEndBlocks(const AttentionChoice& choice) {
  if (choice.map == nullptr) return PromptEndBlocks(choice.pattern);
  int blocks = 0;
  for (const PatternSpec& pattern : choice.map->patterns()) {
    blocks = std::max(blocks, PromptEndBlocks(pattern));
  }
  return blocks;
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

  std::string operator()(const PrunedPattern&) const {
    return "it is for some heads of a plan's map, not for all of a model";
  }

  template <typename Pattern>
  std::string operator()(const Pattern& pattern) const {
    if (TraitsOf(pattern).is_trained_in) {
      return "the checkpoint was not trained with it";
    }
    if (SelectionOf(pattern).rule.has_value() && TrainedWindow(model) != 0) {
      return "every layer of the checkpoint has a window of its own";
    }
    const auto rule = SelectionOf(pattern).rule;
    if (rule.has_value() && !model.selection_rules.Has(*rule)) {
      return StrCat("no kernel of the server's device chooses blocks as ",
                    PatternName(pattern), " does");
    }
    if (CorrectionOf(pattern).every_rows > 0 && !model.corrects_rows) {
      return "the server's device does not correct rows by others";
    }
    if (std::is_same_v<Pattern, SkipSoftmaxPattern> && !model.skips_blocks) {
      return "the server's device does not leave out blocks by their scores";
    }
    return "";
  }
};

}  // namespace

PatternDecision Decide(std::string plan, AttentionChoice choice,
                       const ModelInfo& model) {
  PatternDecision decision;
  decision.plan = std::move(plan);
  decision.choice = std::move(choice);
  decision.traits = TraitsOf(decision.choice);
  const auto dense = static_cast<int>(PatternSpec(DensePattern()).index());
  for (int layer = 0; layer < model.layers; ++layer) {
    const auto kinds = [&](Phase phase) {
      return FollowedKinds(decision.choice, phase, model, layer);
    };
    const std::vector<int> prompt = kinds(Phase::kPrefill);
    const std::vector<int> output = kinds(Phase::kDecode);
    for (size_t head = 0; head < prompt.size(); ++head) {
      ++decision.heads[static_cast<int>(Phase::kPrefill)][prompt[head]];
      ++decision.heads[static_cast<int>(Phase::kDecode)][output[head]];
      ++decision
            .ruled_heads[prompt[head] != dense ? prompt[head] : output[head]];
    }
  }
  decision.prompt_end_blocks = PromptEndBlocks(decision.choice);
  const std::vector<PatternSpec> patterns = EveryPattern();
  for (int phase = 0; phase < kPhases; ++phase) {
    for (int kind = 0; kind < kPatternKinds; ++kind) {
      if (kind == dense || decision.heads[phase][kind] == 0) continue;
      decision.is_dense[phase] = false;
      if (TraitsOf(patterns[kind]).is_trained_in) continue;
      decision.quality[phase] = QualityClass::kUnbounded;
    }
  }
  return decision;
}

PatternDecision Decide(std::string plan, const PatternSpec& pattern,
                       const ModelInfo& model) {
  return Decide(std::move(plan), AttentionChoice{.pattern = pattern}, model);
}

std::vector<int> FollowedKinds(const AttentionChoice& choice, Phase phase,
                               const ModelInfo& model, int layer) {
  const auto dense = static_cast<int>(PatternSpec(DensePattern()).index());
  const auto followed = [&](const PatternSpec& pattern) {
    return Rules(pattern, phase, model, layer)
               ? static_cast<int>(pattern.index())
               : dense;
  };
  std::vector<int> kinds;
  kinds.reserve(model.kv_heads);
  for (int head = 0; head < model.kv_heads; ++head) {
    kinds.push_back(followed(
        choice.map == nullptr ? choice.pattern : choice.map->at(layer, head)));
  }
  for (const PrunedHeads& pruned : model.pruned_heads) {
    if (pruned.layer != layer) continue;
    for (const int head : pruned.kv_heads) kinds[head] = dense;
  }
  return kinds;
}

FollowedHeads FollowedHeadsOf(const AttentionChoice& choice,
                              const ModelInfo& model) {
  FollowedHeads heads;
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    std::vector<int>& followed = heads[static_cast<int>(phase)];
    for (int layer = 0; layer < model.layers; ++layer) {
      for (const int kind : FollowedKinds(choice, phase, model, layer)) {
        followed.insert(followed.end(), model.heads / model.kv_heads, kind);
      }
    }
  }
  return heads;
}

std::string ChoiceName(const AttentionChoice& choice) {
  if (choice.map == nullptr) return std::string(PatternName(choice.pattern));
  std::string name;
  std::set<std::string_view> named;
  for (const PatternSpec& pattern : choice.map->patterns()) {
    if (!named.insert(PatternName(pattern)).second) continue;
    name = StrCat(name, name.empty() ? "" : "+", PatternName(pattern));
  }
  return name;
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
