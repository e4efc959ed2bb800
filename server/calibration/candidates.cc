#include "server/calibration/candidates.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/str_cat.h"
#include "server/policy/pattern_decision.h"

namespace sparseserve {
namespace {

void AddIfLegal(std::string name, const PatternSpec& pattern,
                const ModelInfo& model, std::vector<Candidate>& candidates) {
  if (!WhyUnsupported(pattern, model).empty()) return;
  candidates.push_back({std::move(name), {.pattern = pattern}});
}

}  // namespace

std::vector<Candidate> PromptCandidates(const ModelInfo& model) {
  std::vector<Candidate> candidates;
  for (const float threshold :
       {0.005f, 0.01f, 0.02f, 0.035f, 0.06f, 0.1f, 0.2f}) {
    AddIfLegal(
        StrCat("peak_weight-8-4-", threshold),
        PeakWeightPattern{.stride = 8, .rows = 4, .threshold = threshold},
        model, candidates);
  }
  for (const float threshold : {0.95f, 0.9f}) {
    AddIfLegal(StrCat("xattention-8-", threshold),
               XAttentionPattern{.stride = 8,
                                 .threshold = threshold,
                                 .dense_layers = 0,
                                 .is_last_block_dense = false},
               model, candidates);
  }
  AddIfLegal("similarity_gated-0.3-0.95",
             SimilarityGatedPattern{.similarity = 0.3f,
                                    .threshold = 0.95f,
                                    .dense_layers = 0,
                                    .is_last_block_dense = false},
             model, candidates);
  for (const int window : {2048, 1024}) {
    AddIfLegal(
        StrCat("tri_shape-64-", window),
        TriShapePattern{
            .sink_tokens = 64, .window_tokens = window, .dense_blocks = 0},
        model, candidates);
  }
  return candidates;
}

std::vector<Candidate> OutputCandidates(const ModelInfo& model) {
  std::vector<Candidate> candidates;
  for (const int budget : {512, 1024, 2048, 4096}) {
    AddIfLegal(StrCat("quest-", budget),
               QuestPattern{.budget_tokens = budget, .dense_layers = 0}, model,
               candidates);
  }
  AddIfLegal("quest-2048-first2", QuestPattern{.budget_tokens = 2048}, model,
             candidates);
  AddIfLegal(
      "quest-2048-reuse4",
      QuestPattern{.budget_tokens = 2048, .dense_layers = 0, .reuse_steps = 4},
      model, candidates);
  for (const float threshold : {0.99f, 0.97f, 0.93f, 0.85f}) {
    AddIfLegal(StrCat("page_top_p-4096-", threshold),
               PageTopPPattern{.candidate_tokens = 4096,
                               .threshold = threshold,
                               .dense_layers = 0},
               model, candidates);
  }
  return candidates;
}

std::vector<HeadLevel> HeadLevels(const ModelInfo& model) {
  std::vector<HeadLevel> levels = {{DensePattern(), 0}};
  const auto add = [&](const PatternSpec& pattern, double cost) {
    if (WhyUnsupported(pattern, model).empty())
      levels.push_back({pattern, cost});
  };
  for (const float threshold : {0.035f, 0.12f}) {
    const PeakWeightPattern pattern = {
        .stride = 8, .rows = 4, .threshold = threshold};
    add(pattern, (1.0 / pattern.stride +
                  static_cast<double>(pattern.rows) / kPageTokens) /
                     2);
  }
  add(
      TriShapePattern{
          .sink_tokens = 64, .window_tokens = 256, .dense_blocks = 0},
      0);
  return levels;
}

AttentionChoice MapOf(const std::vector<HeadLevel>& levels,
                      const std::vector<int>& level_of,
                      const ModelInfo& model) {
  // A map holds no pattern that no head has.
  std::vector<PatternSpec> used;
  std::vector<int32_t> place(levels.size(), -1);
  std::vector<int32_t> pattern_of;
  for (const int level : level_of) {
    if (place[level] < 0) {
      place[level] = static_cast<int32_t>(used.size());
      used.push_back(levels[level].pattern);
    }
    pattern_of.push_back(place[level]);
  }
  absl::StatusOr<PatternMap> map = PatternMap::Create(
      {model.layers, model.kv_heads}, std::move(used), pattern_of);
  SPARSESERVE_CHECK(map.ok());
  return {.map = std::make_shared<const PatternMap>(*std::move(map))};
}

}  // namespace sparseserve
