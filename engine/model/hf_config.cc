#include "engine/model/hf_config.h"

#include <cmath>
#include <string>

#include "absl/status/status.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/hf_attention.h"
#include "engine/model/hf_family.h"
#include "engine/model/json_checker.h"
#include "engine/model/json_document.h"
#include "engine/model/json_fields.h"
#include "engine/model/model_limits.h"

namespace sparseserve {
namespace {

constexpr const char* kConfigName = "config.json";
constexpr const char* kGenerationName = "generation_config.json";

absl::StatusOr<nlohmann::json> Parse(std::string_view text,
                                     std::string_view name) {
  RETURN_IF_ERROR(CheckJson(text, name));
  return ParseJson(text, name);
}

// A count that some families' files leave out: `otherwise` is what they mean,
// 0 if this family's do not.
absl::StatusOr<int32_t> CountOrDefault(const JsonFields& fields,
                                       std::string_view name, int64_t greatest,
                                       int32_t otherwise) {
  if (otherwise == 0) return fields.Count(name, 1, greatest);
  return fields.CountOr(name, 1, greatest, otherwise);
}

absl::Status ReadKvHeads(const JsonFields& fields, const HfFamily& family,
                         ModelConfig& config) {
  constexpr std::string_view kName = "num_key_value_heads";
  const bool is_default_heads = family.kv_heads == 0 || fields.IsNull(kName);
  ASSIGN_OR_RETURN(
      config.kv_heads,
      fields.CountOr(kName, 1, config.heads,
                     is_default_heads ? config.heads : family.kv_heads));
  if (config.heads % config.kv_heads == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(fields.PathOf(kName), " is ", config.kv_heads,
             ", must be a divisor of ", config.heads, " heads"));
}

absl::Status ReadHeadDim(const JsonFields& fields, const HfFamily& family,
                         ModelConfig& config) {
  constexpr std::string_view kName = "head_dim";
  if (!fields.Has(kName) && family.head_dim == 0 &&
      config.hidden % config.heads != 0) {
    return absl::InvalidArgumentError(
        StrCat(fields.PathOf("hidden_size"), " is ", config.hidden,
               ", must be a multiple of ", config.heads, " heads"));
  }
  ASSIGN_OR_RETURN(
      config.head_dim,
      fields.CountOr(kName, 1, kMaxWidth,
                     family.head_dim != 0 ? family.head_dim
                                          : config.hidden / config.heads));
  if (config.head_dim > kMaxHeadDim || config.head_dim % kHeadDimStep != 0) {
    return absl::UnimplementedError(StrCat(
        "the head dimension (", fields.PathOf(kName),
        ", else hidden_size / num_attention_heads) is ", config.head_dim,
        ", supported are multiples of ", kHeadDimStep, " up to ", kMaxHeadDim));
  }
  return absl::OkStatus();
}

absl::Status ReadShape(const JsonFields& fields, const HfFamily& family,
                       ModelConfig& config) {
  ASSIGN_OR_RETURN(config.layers,
                   fields.Count("num_hidden_layers", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config.hidden, fields.Count("hidden_size", 1, kMaxWidth));
  ASSIGN_OR_RETURN(config.mlp_hidden,
                   fields.Count("intermediate_size", 1, kMaxMlpWidth));
  ASSIGN_OR_RETURN(config.heads, CountOrDefault(fields, "num_attention_heads",
                                                kMaxHeads, family.heads));
  ASSIGN_OR_RETURN(
      config.vocab_size,
      CountOrDefault(fields, "vocab_size", kMaxVocabSize, family.vocab_size));
  ASSIGN_OR_RETURN(config.context_tokens,
                   CountOrDefault(fields, "max_position_embeddings",
                                  kMaxContextTokens, family.context_tokens));
  RETURN_IF_ERROR(ReadKvHeads(fields, family, config));
  RETURN_IF_ERROR(ReadHeadDim(fields, family, config));
  ASSIGN_OR_RETURN(config.norm_epsilon,
                   fields.RealOr("rms_norm_eps", 0, 1, 1e-6f));
  return absl::OkStatus();
}

// Refuses what would change the forward pass: running the model without it
// would give wrong text, not an error.
absl::Status RefuseUnknownFeatures(const JsonFields& fields,
                                   const HfFamily& family) {
  if (fields.Has("quantization_config")) {
    return absl::UnimplementedError(
        StrCat(fields.PathOf("quantization_config"),
               " is there: quantised safetensors files are not supported"));
  }
  for (const std::string_view name :
       {"attention_bias", "mlp_bias", "use_bidirectional_attention"}) {
    // Qwen2's is what the family has anyway, without one of the output.
    if (family.architecture == Architecture::kQwen2) break;
    ASSIGN_OR_RETURN(const bool value, fields.BoolOr(name, false));
    if (!value) continue;
    return absl::UnimplementedError(
        StrCat(fields.PathOf(name), " is true, supported is false"));
  }
  return absl::OkStatus();
}

absl::Status ReadActivation(const JsonFields& fields, const HfFamily& family,
                            ModelConfig& config) {
  const std::string_view name =
      family.is_gemma() ? "hidden_activation" : "hidden_act";
  ASSIGN_OR_RETURN(
      const std::string activation,
      fields.TextOr(name, family.is_gemma() ? "gelu_pytorch_tanh" : "silu"));
  if (activation == "silu" || activation == "swish") {
    config.activation = Activation::kSilu;
  } else if (activation == "gelu_pytorch_tanh") {
    config.activation = Activation::kGeluTanh;
  } else {
    return absl::UnimplementedError(
        StrCat(fields.PathOf(name), " is ", Quoted(activation),
               ", supported are \"silu\" and \"gelu_pytorch_tanh\""));
  }
  return absl::OkStatus();
}

// What Gemma has that other families lack.
absl::Status ReadGemma(const JsonFields& fields, const HfFamily& family,
                       ModelConfig& config) {
  const bool is_gemma2 = family.architecture == Architecture::kGemma2;
  config.has_post_norms = true;
  config.embedding_scale = std::sqrt(static_cast<float>(config.hidden));
  ASSIGN_OR_RETURN(const float scalar,
                   fields.RealOr("query_pre_attn_scalar", 0, 1e6f, 256));
  config.attention_scale = 1.0f / std::sqrt(scalar);
  // Null says that there is none.
  if (!fields.IsNull("attn_logit_softcapping")) {
    ASSIGN_OR_RETURN(config.attention_softcap,
                     fields.RealOr("attn_logit_softcapping", 0, kMaxCap,
                                   is_gemma2 ? 50.0f : 0.0f));
  }
  if (!fields.IsNull("final_logit_softcapping")) {
    ASSIGN_OR_RETURN(config.logit_softcap,
                     fields.RealOr("final_logit_softcapping", 0, kMaxCap,
                                   is_gemma2 ? 30.0f : 0.0f));
  }
  return absl::OkStatus();
}

// eos_token_id: one id or an array of them.
absl::StatusOr<std::vector<TokenId>> ReadEndTokens(const JsonFields& fields,
                                                   int32_t vocab_size) {
  constexpr std::string_view kName = "eos_token_id";
  std::vector<TokenId> tokens;
  const nlohmann::json* value = fields.Find(kName);
  if (value == nullptr) return tokens;
  const auto add = [&](const nlohmann::json& id) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t token,
                     JsonInteger(id, fields.PathOf(kName), 0, vocab_size - 1));
    tokens.push_back(static_cast<TokenId>(token));
    return absl::OkStatus();
  };
  if (!value->is_array()) {
    RETURN_IF_ERROR(add(*value));
    return tokens;
  }
  for (const nlohmann::json& id : *value) RETURN_IF_ERROR(add(id));
  return tokens;
}

// Of a model's own fields, or of those of its text half.
absl::StatusOr<HfConfig> ReadText(const JsonFields& fields) {
  HfConfig config;
  ASSIGN_OR_RETURN(const std::string model_type, fields.Text("model_type"));
  ASSIGN_OR_RETURN(const HfFamily family, FindHfFamily(model_type));
  ModelConfig& model = config.model;
  model.architecture = family.architecture;
  model.rope_pairs = RopePairs::kHalves;
  RETURN_IF_ERROR(RefuseUnknownFeatures(fields, family));
  RETURN_IF_ERROR(ReadShape(fields, family, model));
  RETURN_IF_ERROR(ReadHfRope(fields, family, model));
  RETURN_IF_ERROR(ReadHfLayers(fields, family, model));
  RETURN_IF_ERROR(ReadActivation(fields, family, model));
  model.has_qkv_bias = family.architecture == Architecture::kQwen2;
  model.has_qk_norm = family.architecture == Architecture::kQwen3 ||
                      family.architecture == Architecture::kGemma3;
  model.attention_scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim));
  if (family.is_gemma()) RETURN_IF_ERROR(ReadGemma(fields, family, model));
  ASSIGN_OR_RETURN(config.is_tied,
                   fields.BoolOr("tie_word_embeddings", family.is_tied));
  ASSIGN_OR_RETURN(config.end_tokens, ReadEndTokens(fields, model.vocab_size));
  return config;
}

}  // namespace

absl::StatusOr<HfConfig> ReadHfConfig(std::string_view config_json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   Parse(config_json, kConfigName));
  ASSIGN_OR_RETURN(const JsonFields fields,
                   JsonFields::Of(document, kConfigName));
  ASSIGN_OR_RETURN(const std::string model_type, fields.Text("model_type"));
  if (model_type != "gemma3") return ReadText(fields);
  // What holds for both halves stands outside them.
  ASSIGN_OR_RETURN(const JsonFields text, fields.Object("text_config"));
  ASSIGN_OR_RETURN(HfConfig config, ReadText(text));
  config.has_image_half = true;
  RETURN_IF_ERROR(RefuseUnknownFeatures(
      fields, {.architecture = config.model.architecture}));
  ASSIGN_OR_RETURN(config.is_tied,
                   fields.BoolOr("tie_word_embeddings", config.is_tied));
  ASSIGN_OR_RETURN(const std::vector<TokenId> end_tokens,
                   ReadEndTokens(fields, config.model.vocab_size));
  config.end_tokens.insert(config.end_tokens.end(), end_tokens.begin(),
                           end_tokens.end());
  return config;
}

absl::StatusOr<std::vector<TokenId>> ReadHfEndTokens(
    std::string_view generation_config_json, int32_t vocab_size) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   Parse(generation_config_json, kGenerationName));
  ASSIGN_OR_RETURN(const JsonFields fields,
                   JsonFields::Of(document, kGenerationName));
  return ReadEndTokens(fields, vocab_size);
}

}  // namespace sparseserve
