#pragma once

#include "absl/status/status.h"
#include "engine/model/hf_family.h"
#include "engine/model/json_fields.h"
#include "engine/model/model_config.h"

namespace sparseserve {

// What config.json says of how attention differs from plain causal attention;
// `config` has the shape already. Statuses as ReadHfConfig().

// The rotary frequencies, in the fields of transformers 4 (rope_theta,
// rope_scaling) or 5 (rope_parameters).
absl::Status ReadHfRope(const JsonFields& fields, const HfFamily& family,
                        ModelConfig& config);

// Which layers have a window, and which no rotary positions.
absl::Status ReadHfLayers(const JsonFields& fields, const HfFamily& family,
                          ModelConfig& config);

}  // namespace sparseserve
