#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "engine/model/model_config.h"

namespace sparseserve {

// Between the names of tensors in Hugging Face's files and the engine's, which
// are GGUF's: "model.layers.0.self_attn.q_proj.weight" is
// "blk.0.attn_q.weight". The text half of a model that also takes images has
// the names that it would have alone, after StripTextPrefix().

// Nothing for a name that means no tensor of the architecture.
std::optional<std::string> EngineTensorName(Architecture architecture,
                                            std::string_view hf_name);
// The other way round; a name that is not the engine's stays as it is.
std::string HfTensorName(Architecture architecture,
                         std::string_view engine_name);

// "language_model.model.norm.weight" becomes "model.norm.weight"; what belongs
// to the image half gives nothing.
std::optional<std::string> StripTextPrefix(std::string_view hf_name);

}  // namespace sparseserve
