#include "engine/model/hf_attention.h"

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/json_document.h"
#include "engine/model/model_limits.h"

namespace sparseserve {
namespace {

constexpr std::string_view kFull = "full_attention";
constexpr std::string_view kSliding = "sliding_attention";
constexpr float kGemma3LocalBase = 10000;

absl::Status RefusePartialRotation(const JsonFields& fields) {
  constexpr std::string_view kName = "partial_rotary_factor";
  ASSIGN_OR_RETURN(const float share, fields.RealOr(kName, 0, 1e6f, 1));
  if (share == 1) return absl::OkStatus();
  return absl::UnimplementedError(
      StrCat(fields.PathOf(kName), " is ", share, ", supported is 1"));
}

absl::StatusOr<RopeFrequencies::Llama3> ReadLlama3(const JsonFields& rope,
                                                   const ModelConfig& config) {
  RopeFrequencies::Llama3 scaling;
  ASSIGN_OR_RETURN(scaling.factor, rope.Real("factor", 0, kMaxScalingFactor));
  ASSIGN_OR_RETURN(scaling.low_factor,
                   rope.Real("low_freq_factor", 0, kMaxScalingFactor));
  ASSIGN_OR_RETURN(scaling.high_factor,
                   rope.Real("high_freq_factor", 0, kMaxScalingFactor));
  if (scaling.high_factor <= scaling.low_factor) {
    return absl::InvalidArgumentError(
        StrCat(rope.PathOf("high_freq_factor"), " is ", scaling.high_factor,
               ", must be above low_freq_factor, ", scaling.low_factor));
  }
  ASSIGN_OR_RETURN(scaling.original_context_tokens,
                   rope.CountOr("original_max_position_embeddings", 1,
                                kMaxContextTokens, config.context_tokens));
  return scaling;
}

// `base` is what holds where `rope` names none.
absl::StatusOr<RopeFrequencies> ReadFrequencies(const JsonFields& rope,
                                                float base,
                                                const ModelConfig& config) {
  RopeFrequencies frequencies;
  ASSIGN_OR_RETURN(frequencies.base,
                   rope.RealOr("rope_theta", 1, kMaxRopeBase, base));
  RETURN_IF_ERROR(RefusePartialRotation(rope));
  const std::string_view type_name =
      rope.Has("rope_type") ? "rope_type" : "type";
  ASSIGN_OR_RETURN(const std::string type, rope.TextOr(type_name, "default"));
  if (type == "linear") {
    RopeFrequencies::Linear scaling;
    ASSIGN_OR_RETURN(scaling.factor, rope.Real("factor", 0, kMaxScalingFactor));
    frequencies.scaling = scaling;
  } else if (type == "llama3") {
    ASSIGN_OR_RETURN(frequencies.scaling, ReadLlama3(rope, config));
  } else if (type != "default") {
    return absl::UnimplementedError(
        StrCat(rope.PathOf(type_name), " is ", Quoted(type),
               ", supported are \"default\", \"linear\" and \"llama3\""));
  }
  return frequencies;
}

// Gemma 3 turns the heads of its local layers by frequencies of their own.
absl::Status ReadGemma3Rope(const JsonFields& fields, float base,
                            ModelConfig& config) {
  config.rope.base = base;
  ASSIGN_OR_RETURN(
      config.local_rope.base,
      fields.RealOr("rope_local_base_freq", 1, kMaxRopeBase, kGemma3LocalBase));
  if (fields.Has("rope_scaling")) {
    ASSIGN_OR_RETURN(const JsonFields rope, fields.Object("rope_scaling"));
    ASSIGN_OR_RETURN(config.rope, ReadFrequencies(rope, base, config));
    return absl::OkStatus();
  }
  if (!fields.Has("rope_parameters")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const JsonFields both, fields.Object("rope_parameters"));
  ASSIGN_OR_RETURN(const JsonFields full, both.Object(kFull));
  ASSIGN_OR_RETURN(config.rope, ReadFrequencies(full, base, config));
  ASSIGN_OR_RETURN(const JsonFields sliding, both.Object(kSliding));
  ASSIGN_OR_RETURN(config.local_rope,
                   ReadFrequencies(sliding, config.local_rope.base, config));
  return absl::OkStatus();
}

// The model's window, 0 if it has none.
absl::StatusOr<int32_t> ReadWindow(const JsonFields& fields,
                                   const HfFamily& family) {
  switch (family.architecture) {
    case Architecture::kSmolLm3:
    case Architecture::kQwen2:
    case Architecture::kQwen3: {
      ASSIGN_OR_RETURN(const bool uses,
                       fields.BoolOr("use_sliding_window", false));
      if (!uses) return 0;
      break;
    }
    default:
      break;
  }
  // Null says that there is none, in silence the family's default holds.
  if (fields.IsNull("sliding_window")) return 0;
  return fields.CountOr("sliding_window", 1, kMaxWindowTokens,
                        family.window_tokens);
}

// SmolLM3's layers without positions.
absl::Status ReadRotatingLayers(const JsonFields& fields, ModelConfig& config) {
  constexpr std::string_view kName = "no_rope_layers";
  ASSIGN_OR_RETURN(const int32_t interval,
                   fields.CountOr("no_rope_layer_interval", 1, kMaxLayers, 4));
  for (int32_t i = 0; i < config.layers; ++i) {
    config.layer_configs[i].rotates = (i + 1) % interval != 0;
  }
  if (!fields.Has(kName)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto* flags, fields.Array(kName, config.layers));
  for (int32_t i = 0; i < config.layers; ++i) {
    ASSIGN_OR_RETURN(
        const int64_t rotates,
        JsonInteger((*flags)[i], StrCat(fields.PathOf(kName), "[", i, "]"), 0,
                    1));
    config.layer_configs[i].rotates = rotates == 1;
  }
  return absl::OkStatus();
}

// Whether layer `index` is local where config.json has no layer_types.
absl::StatusOr<bool> IsLocalByDefault(const JsonFields& fields,
                                      const HfFamily& family,
                                      const LayerConfig& layer, int32_t window,
                                      int32_t index) {
  switch (family.architecture) {
    case Architecture::kLlama:  // Mistral has a window in every layer
      return window > 0;
    case Architecture::kSmolLm3:
      return window > 0 && !layer.rotates;
    case Architecture::kQwen2:
    case Architecture::kQwen3: {
      ASSIGN_OR_RETURN(const int32_t full_layers,
                       fields.CountOr("max_window_layers", 0, kMaxLayers, 28));
      return window > 0 && index >= full_layers;
    }
    case Architecture::kGemma2:
      return index % 2 == 0;
    case Architecture::kGemma3: {
      const std::string_view name = fields.Has("sliding_window_pattern")
                                        ? "sliding_window_pattern"
                                        : "_sliding_window_pattern";
      ASSIGN_OR_RETURN(const int32_t pattern,
                       fields.CountOr(name, 1, kMaxLayers, 6));
      return (index + 1) % pattern != 0;
    }
  }
  return false;
}

// The element of layer_types for layer `index`.
absl::StatusOr<bool> IsLocalByType(const nlohmann::json& type,
                                   const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, JsonString(type, path));
  if (text == kSliding) return true;
  if (text == kFull) return false;
  return absl::UnimplementedError(StrCat(path, " is ", Quoted(text),
                                         ", supported are \"", kFull,
                                         "\" and \"", kSliding, "\""));
}

}  // namespace

absl::Status ReadHfRope(const JsonFields& fields, const HfFamily& family,
                        ModelConfig& config) {
  ASSIGN_OR_RETURN(
      const float base,
      fields.RealOr("rope_theta", 1, kMaxRopeBase, family.rope_base));
  RETURN_IF_ERROR(RefusePartialRotation(fields));
  if (family.architecture == Architecture::kGemma3) {
    return ReadGemma3Rope(fields, base, config);
  }
  config.rope.base = base;
  // As transformers does where a file has both.
  const std::string_view name =
      fields.Has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  if (!fields.Has(name)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const JsonFields rope, fields.Object(name));
  for (const std::string_view type : {kFull, kSliding}) {
    if (!rope.Has(type)) continue;
    return absl::UnimplementedError(
        StrCat(rope.PathOf(type),
               ": frequencies by layer type are not "
               "supported for model_type ",
               family.model_type));
  }
  ASSIGN_OR_RETURN(config.rope, ReadFrequencies(rope, base, config));
  return absl::OkStatus();
}

absl::Status ReadHfLayers(const JsonFields& fields, const HfFamily& family,
                          ModelConfig& config) {
  constexpr std::string_view kTypes = "layer_types";
  config.layer_configs.assign(config.layers, LayerConfig());
  if (family.architecture == Architecture::kSmolLm3) {
    RETURN_IF_ERROR(ReadRotatingLayers(fields, config));
  }
  // Llama has no window, whatever its file says.
  if (family.model_type == "llama") return absl::OkStatus();
  ASSIGN_OR_RETURN(const int32_t window, ReadWindow(fields, family));
  const nlohmann::json::array_t* types = nullptr;
  if (family.architecture != Architecture::kLlama && fields.Has(kTypes)) {
    ASSIGN_OR_RETURN(types, fields.Array(kTypes, config.layers));
  }
  for (int32_t i = 0; i < config.layers; ++i) {
    LayerConfig& layer = config.layer_configs[i];
    const std::string path = StrCat(fields.PathOf(kTypes), "[", i, "]");
    ASSIGN_OR_RETURN(const bool is_local,
                     types == nullptr
                         ? IsLocalByDefault(fields, family, layer, window, i)
                         : IsLocalByType((*types)[i], path));
    if (!is_local) continue;
    if (window == 0) {
      return absl::InvalidArgumentError(
          StrCat("layer ", i, " has ", kSliding, ", but ",
                 fields.PathOf("sliding_window"), " says that there is none"));
    }
    layer.window_tokens = window;
    layer.is_local_rope = family.architecture == Architecture::kGemma3;
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
