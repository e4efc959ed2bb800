#pragma once

#include "absl/status/status.h"
#include "engine/model/config_reader.h"
#include "engine/model/model_config.h"

namespace sparseserve {

// UNIMPLEMENTED names what would change the forward pass and the engine lacks:
// running the model without it would give wrong text, not an error.
absl::Status RefuseUnknownFeatures(const ConfigReader& reader);

// Fills in what model families differ in: rotation, windows, norms, activation,
// scales and caps, by llama.cpp's meaning of the keys. What a family implies
// and no key says is said here. REQUIRES: architecture, layers and the widths
// of `config` are set.
absl::Status ReadFamily(const ConfigReader& reader, ModelConfig& config);

}  // namespace sparseserve
