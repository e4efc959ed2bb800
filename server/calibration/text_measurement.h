#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/step.h"
#include "server/policy/plan_profile.h"

namespace sparseserve {

// What one plan's run of one text was like in one band of lengths.
struct BandMeasurement {
  std::vector<float> divergences;  // of rows, nats
  int same_top = 0;                // of these rows
  // Sums of natural logarithms of what the text's next tokens got, in this run
  // and the dense one.
  double log_probability = 0;
  double dense_log_probability = 0;
  int targets = 0;  // rows that have a next token
  // Of prompts whose ends are in the band, or of output rows in it.
  double density = 1;
  // [groups of layers][rows]: recall, the mean over a row's heads that follow a
  // pattern and the group's layers; 1 where none does.
  std::vector<std::vector<float>> recalls;
};

// [bands] that the text reaches.
using TextMeasurement = std::vector<BandMeasurement>;

// Layers in groups, for recall: [first, end) of each, about equal, at most
// `groups` of them.
struct LayerGroup {
  int first_layer = 0;
  int end_layer = 0;
};
std::vector<LayerGroup> GroupLayers(int layers, int groups);

// A plan's quality by what it did to several texts, each of which counts as
// one. `min_tokens` and `max_tokens` are the band's. REQUIRES: `texts` is not
// empty, and all have rows, and recalls of all groups.
PlanQuality SummariseBand(absl::Span<const BandMeasurement* const> texts,
                          const std::vector<LayerGroup>& groups, int min_tokens,
                          int max_tokens);

}  // namespace sparseserve
