#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "engine/step.h"

// What calibration found out about a model's plans: plan_profile.proto, which
// says what each field means, in the server's terms.

namespace sparseserve {

struct RecallReference {
  int first_layer = 0;
  int last_layer = 0;
  double mean = 1;
  double p5 = 1;
  double low_share = 0;
  double text_p5 = 1;
};

// One plan, one phase, contexts of min_tokens to max_tokens.
struct PlanQuality {
  int min_tokens = 0;
  int max_tokens = 0;
  int sequences = 0;
  int64_t rows = 0;
  double divergence_mean = 0;
  double divergence_upper = 0;
  double divergence_p99 = 0;
  double top1_agreement = 1;
  double perplexity_ratio = 1;
  double density_p05 = 1;
  double density_p50 = 1;
  double density_p95 = 1;
  std::vector<RecallReference> recall = {};
};

struct CalibratedPlan {
  std::string name;
  AttentionChoice choice;
  // By phase; bands ascend.
  std::array<std::vector<PlanQuality>, kPhases> quality = {};

  // The band of `tokens`, or null: not calibrated for that length.
  const PlanQuality* QualityOf(Phase phase, int tokens) const;
};

struct ProfiledModel {
  std::string name;
  std::string weights_sha256;
  int layers = 0;
  int kv_heads = 0;
  int context_tokens = 0;
  int kernel_version = 0;
};

// What the plans were measured on.
struct CalibrationText {
  std::string sha256;
  int64_t tokens = 0;
  int64_t held_out_tokens = 0;
  uint64_t seed = 0;
};

struct PlanProfile {
  ProfiledModel model;
  std::vector<CalibratedPlan> plans;
  CalibrationText text = {};
};

}  // namespace sparseserve
