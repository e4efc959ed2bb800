#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/pattern/attention_choice.h"
#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// A choice that calibration measures, under the name of the plan that it would
// be.
struct Candidate {
  std::string name;
  AttentionChoice choice;
};

// What the model may run with in all layers and heads: for prompts, and for
// output behind dense prompts. All of the first are selection-causal and treat
// a prompt's end as all else; what chooses by the whole prompt (flex_prefill,
// vertical_slash) is none of them, for it is not to be chunked or cached.
std::vector<Candidate> PromptCandidates(const ModelInfo& model);
std::vector<Candidate> OutputCandidates(const ModelInfo& model);

// What a head may do with a prompt when each does its own, from dense to what
// visits least.
struct HeadLevel {
  PatternSpec pattern;
  // Work of choosing blocks, as share of that of dense attention: products of
  // queries and keys that are computed for it, of those and the ones with
  // values.
  double selection_cost = 0;
};
std::vector<HeadLevel> HeadLevels(const ModelInfo& model);

// The plan in which heads do what `level_of` says, [layers, KV heads]: indexes
// into `levels`.
AttentionChoice MapOf(const std::vector<HeadLevel>& levels,
                      const std::vector<int>& level_of, const ModelInfo& model);

}  // namespace sparseserve
