#include "engine/model/family_config.h"

#include <cmath>
#include <string_view>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/model_limits.h"

namespace sparseserve {
namespace {

absl::Status ReadRope(const ConfigReader& reader, ModelConfig& config) {
  if (reader.Has("rope.freq_base")) {
    ASSIGN_OR_RETURN(config.rope.base,
                     reader.Real("rope.freq_base", 1, kMaxRopeBase));
  }
  ASSIGN_OR_RETURN(const std::string_view type,
                   reader.TextOr("rope.scaling.type", "linear"));
  if (type == "none") return absl::OkStatus();
  if (type != "linear") {
    return absl::UnimplementedError(
        StrCat(reader.Key("rope.scaling.type"), " is ", Quoted(type),
               ", supported are \"none\" and \"linear\""));
  }
  // The second is the first one's older name.
  for (const std::string_view name :
       {"rope.scaling.factor", "rope.scale_linear"}) {
    ASSIGN_OR_RETURN(const float factor,
                     reader.PositiveOrNone(name, kMaxScalingFactor, 0));
    if (factor == 0) continue;
    if (factor != 1) config.rope.scaling = RopeFrequencies::Linear{factor};
    break;
  }
  return absl::OkStatus();
}

// Latest keys that windowed layers see, `otherwise` if the file does not say.
absl::StatusOr<int32_t> ReadWindow(const ConfigReader& reader,
                                   int32_t otherwise) {
  return reader.CountOr("attention.sliding_window", 0, kMaxWindowTokens,
                        otherwise);
}

// Of `period` layers all but the last have the window.
absl::Status ReadLocalLayers(const ConfigReader& reader, int32_t default_window,
                             int32_t default_period, ModelConfig& config) {
  ASSIGN_OR_RETURN(const int32_t window, ReadWindow(reader, default_window));
  ASSIGN_OR_RETURN(const int32_t period,
                   reader.CountOr("attention.sliding_window_pattern", 1,
                                  kMaxWindowTokens, default_period));
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    if (layer % period < period - 1) {
      config.layer_configs[layer].window_tokens = window;
    }
  }
  return absl::OkStatus();
}

absl::Status ReadLlama(const ConfigReader& reader, ModelConfig& config) {
  RETURN_IF_ERROR(reader.RequireCount("attention.sliding_window_pattern", 0));
  ASSIGN_OR_RETURN(const int32_t window, ReadWindow(reader, 0));
  for (LayerConfig& layer : config.layer_configs) layer.window_tokens = window;
  return absl::OkStatus();
}

absl::Status RefuseWindows(const ConfigReader& reader) {
  RETURN_IF_ERROR(reader.RequireCount("attention.sliding_window_pattern", 0));
  return reader.RequireCount("attention.sliding_window", 0);
}

absl::Status ReadSmolLm3(const ConfigReader& reader, ModelConfig& config) {
  constexpr int32_t kUnrotatedPeriod = 4;
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    config.layer_configs[layer].rotates = (layer + 1) % kUnrotatedPeriod != 0;
  }
  return RefuseWindows(reader);
}

// What Gemma 2 and 3 have in common. `layers_of_27b`: the largest model is
// scaled by its hidden size, which no key says.
absl::Status ReadGemma(const ConfigReader& reader, int32_t layers_of_27b,
                       float default_attention_cap, float default_logit_cap,
                       ModelConfig& config) {
  config.rope_pairs = RopePairs::kHalves;
  config.activation = Activation::kGeluTanh;
  config.has_post_norms = true;
  config.embedding_scale = std::sqrt(static_cast<float>(config.hidden));
  if (config.layers == layers_of_27b) {
    const int32_t width = config.hidden / config.heads;
    config.attention_scale = 1.0f / std::sqrt(static_cast<float>(width));
  }
  ASSIGN_OR_RETURN(config.attention_softcap,
                   reader.PositiveOrNone("attn_logit_softcapping", kMaxCap,
                                         default_attention_cap));
  ASSIGN_OR_RETURN(config.logit_softcap,
                   reader.PositiveOrNone("final_logit_softcapping", kMaxCap,
                                         default_logit_cap));
  return absl::OkStatus();
}

absl::Status ReadGemma2(const ConfigReader& reader, ModelConfig& config) {
  RETURN_IF_ERROR(ReadGemma(reader, /*layers_of_27b=*/46, 50, 30, config));
  return ReadLocalLayers(reader, /*default_window=*/4096, /*default_period=*/2,
                         config);
}

absl::Status ReadGemma3(const ConfigReader& reader, ModelConfig& config) {
  RETURN_IF_ERROR(ReadGemma(reader, /*layers_of_27b=*/62, 0, 0, config));
  config.has_qk_norm = true;
  RETURN_IF_ERROR(ReadLocalLayers(reader, /*default_window=*/0,
                                  /*default_period=*/6, config));
  config.local_rope.base = 10000;
  if (reader.Has("rope.freq_base_swa")) {
    ASSIGN_OR_RETURN(config.local_rope.base,
                     reader.Real("rope.freq_base_swa", 1, kMaxRopeBase));
  }
  for (LayerConfig& layer : config.layer_configs) {
    layer.is_local_rope = layer.window_tokens > 0;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RefuseUnknownFeatures(const ConfigReader& reader) {
  for (const std::string_view name :
       {"expert_count", "attention.shared_kv_layers"}) {
    RETURN_IF_ERROR(reader.RequireCount(name, 0));
  }
  for (const std::string_view name :
       {"attention.max_alibi_bias", "attention.clamp_kqv", "attention.scale",
        "attention.temperature_scale", "logit_scale", "embedding_scale",
        "residual_scale"}) {
    RETURN_IF_ERROR(reader.RequireReal(name, 0));
  }
  RETURN_IF_ERROR(reader.RequireReal("rope.scaling.attn_factor", 1));
  return reader.RequireFlag("attention.causal", true);
}

absl::Status ReadFamily(const ConfigReader& reader, ModelConfig& config) {
  config.layer_configs.resize(config.layers);
  config.attention_scale =
      1.0f / std::sqrt(static_cast<float>(config.head_dim));
  RETURN_IF_ERROR(ReadRope(reader, config));
  if (config.architecture != Architecture::kGemma2 &&
      config.architecture != Architecture::kGemma3) {
    RETURN_IF_ERROR(reader.RequireReal("attn_logit_softcapping", 0));
    RETURN_IF_ERROR(reader.RequireReal("final_logit_softcapping", 0));
  }
  switch (config.architecture) {
    case Architecture::kLlama:
      return ReadLlama(reader, config);
    case Architecture::kSmolLm3:
      return ReadSmolLm3(reader, config);
    case Architecture::kQwen2:
      config.rope_pairs = RopePairs::kHalves;
      config.has_qkv_bias = true;
      return RefuseWindows(reader);
    case Architecture::kQwen3:
      config.rope_pairs = RopePairs::kHalves;
      config.has_qk_norm = true;
      return RefuseWindows(reader);
    case Architecture::kGemma2:
      return ReadGemma2(reader, config);
    case Architecture::kGemma3:
      return ReadGemma3(reader, config);
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
