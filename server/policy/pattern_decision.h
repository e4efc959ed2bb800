#pragma once

#include <array>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/kv/prefix_index.h"
#include "engine/pattern/attention_choice.h"
#include "engine/pattern/every_pattern.h"
#include "engine/pattern/pattern_spec.h"
#include "engine/step.h"

namespace sparseserve {

// (layer, KV head) pairs of a model by what they follow: indexed as
// PatternSpec::index() counts.
using PatternHeads = std::array<int, kPatternKinds>;

// The plan that every model has.
inline constexpr char kDensePlan[] = "dense";

// How the attention of one request is computed, and what that means for
// whoever schedules and reports it. Plain data.
struct PatternDecision {
  std::string plan = kDensePlan;  // empty: the request named a pattern instead
  AttentionChoice choice = {.pattern = DensePattern()};
  PatternTraits traits;
  // By phase. A phase that the pattern does not rule is dense.
  std::array<PatternHeads, kPhases> heads = {};

  // By phase: how far keys and values may be from a dense run's, and whether
  // they are a dense run's own. What nobody has calibrated is kUnbounded, and
  // what the checkpoint was trained with is exact.
  std::array<QualityClass, kPhases> quality = {};
  std::array<bool, kPhases> is_dense = {true, true};
  // So many of a prompt's last query blocks see other keys than they would if
  // the prompt went on.
  int prompt_end_blocks = 0;

  // Why it is dense where something else was asked for or chosen.
  FallbackReason fallback = FallbackReason::kNone;

  // Each head once: under what its prompt rows follow, or where that is dense,
  // its output rows. So dense heads are dense in both.
  PatternHeads ruled_heads = {};
};

// REQUIRES: the choice's patterns pass CheckPattern() and suit the model, and
// so does the shape of its map.
PatternDecision Decide(std::string plan, AttentionChoice choice,
                       const ModelInfo& model);
// Likewise for a pattern in every layer and head.
PatternDecision Decide(std::string plan, const PatternSpec& pattern,
                       const ModelInfo& model);

// What a layer's KV heads follow, [kv_heads], as PatternSpec::index() counts:
// dense where the choice leaves the phase, the layer or the head alone, or the
// model does without the head.
std::vector<int> FollowedKinds(const AttentionChoice& choice, Phase phase,
                               const ModelInfo& model, int layer);

// By phase, [layers, heads]: what each query head follows, likewise.
using FollowedHeads = std::array<std::vector<int>, kPhases>;
FollowedHeads FollowedHeadsOf(const AttentionChoice& choice,
                              const ModelInfo& model);

// The pattern's name; of a map those of its patterns, joined with "+".
std::string ChoiceName(const AttentionChoice& choice);

// Why the model may not run with `pattern` in every layer and head: completes
// "is not available, for ...". Empty if it may. What a map may have besides is
// PrunedPattern.
std::string WhyUnsupported(const PatternSpec& pattern, const ModelInfo& model);

// One of each kind that the model may run with, with default parameters or
// those that the checkpoint was trained with.
std::vector<PatternSpec> SupportedPatterns(const ModelInfo& model);

}  // namespace sparseserve
