#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/calibration/corpus.h"
#include "server/calibration/length_bands.h"
#include "server/calibration/measurement_store.h"
#include "server/policy/plan_profile.h"

namespace sparseserve {

// How far a calibration is.
struct CalibrationProgress {
  std::string doing;  // "survey, text 2 of 8"
  double done = 0;    // share of the work, 0 to 1
  double seconds_left = 0;
};

struct CalibrationOptions {
  std::vector<LengthBand> bands;
  int blocks_per_band = 3;  // whose rows are compared, of each text
  int layer_groups = 4;     // of recall
  int window_blocks = 2;    // in which heads are tried one by one
  uint64_t seed = 1;
  // After which no other text is begun; 0: none. Each stage has its share, and
  // runs at least one text, the last one two.
  double budget_seconds = 0;
  // Shares of the work of dense attention that plans made head by head may
  // take.
  std::vector<double> head_budgets = {0.7, 0.5, 0.4, 0.3, 0.2};
  // The sparsest plan within each is measured on held-out text, nats.
  std::vector<double> divergence_levels = {0.002, 0.005, 0.01,
                                           0.016, 0.04,  0.1};
  std::function<double()> stopwatch;  // monotonic seconds
  std::function<void(const CalibrationProgress&)> progress;
};

struct CalibrationResult {
  PlanProfile profile;
  int survey_texts = 0;    // that plans were chosen by, of those there are
  int held_out_texts = 0;  // that they were measured on, likewise
  double seconds = 0;
  double full_seconds = 0;  // estimated, without a budget
};

// Finds out what plans do to what the model says.
//
// 1. Survey: each candidate for all heads, on the texts of the first half, up
//    to the last band but one; and each level of each head by itself, in a
//    window of the same texts behind a dense beginning.
// 2. Head plans: for each budget the levels that together lose least
//    (ChooseOptions()), all heads' at once on the same texts; where that loses
//    more than twice what the heads do one by one, also with the worst of them
//    a level higher.
// 3. Of all the sparsest plan within each level of divergence, on the other
//    half of the texts in all bands: what the profile says.
//
// What `store` has is not measured again. The same model, texts, options and
// seed give the same profile, if no budget cuts it. Statuses of the engine and
// the store. REQUIRES: the engine has measure_recall and fingerprint_weights,
// and the corpus was cut for the same bands.
absl::StatusOr<CalibrationResult> Calibrate(Engine& engine,
                                            const Corpus& corpus,
                                            const CalibrationOptions& options,
                                            MeasurementStore& store);

}  // namespace sparseserve
