#include "engine/model/model_config.h"

#include <cmath>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/model_limits.h"

namespace sparseserve {
namespace {

absl::Status WrongFile(std::string_view key, std::string_view found,
                       std::string_view wanted) {
  return absl::InvalidArgumentError(
      StrCat(key, " is ", found, ", must be ", wanted));
}

// The metadata of one architecture: its keys carry its name as a prefix.
class ConfigReader {
 public:
  ConfigReader(const GgufMetadata& metadata, std::string_view prefix)
      : metadata_(metadata), prefix_(prefix) {}

  std::string Key(std::string_view name) const {
    return StrCat(prefix_, ".", name);
  }
  bool Has(std::string_view name) const { return metadata_.Has(Key(name)); }

  absl::StatusOr<int32_t> Count(std::string_view name, int64_t least,
                                int64_t greatest) const {
    const std::string key = Key(name);
    if (!metadata_.Has(key)) return Missing(key);
    ASSIGN_OR_RETURN(const int64_t value, metadata_.GetInt64(key));
    if (value < least || value > greatest) {
      return WrongFile(key, StrCat(value),
                       StrCat("from ", least, " to ", greatest));
    }
    return static_cast<int32_t>(value);
  }
  absl::StatusOr<int32_t> CountOr(std::string_view name, int64_t least,
                                  int64_t greatest, int32_t otherwise) const {
    if (!Has(name)) return otherwise;
    return Count(name, least, greatest);
  }

  absl::StatusOr<float> Real(std::string_view name, float above,
                             float below) const {
    const std::string key = Key(name);
    if (!metadata_.Has(key)) return Missing(key);
    ASSIGN_OR_RETURN(const float value, metadata_.GetFloat(key));
    if (!(value > above && value < below)) {
      return WrongFile(key, StrCat(value),
                       StrCat("above ", above, " and below ", below));
    }
    return value;
  }

 private:
  static absl::Status Missing(const std::string& key) {
    return absl::InvalidArgumentError(StrCat("the model file has no ", key));
  }

  const GgufMetadata& metadata_;
  const std::string_view prefix_;
};

absl::StatusOr<Architecture> ReadArchitecture(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "general.architecture";
  if (!metadata.Has(kKey)) {
    return absl::InvalidArgumentError(
        "the model file has no general.architecture");
  }
  ASSIGN_OR_RETURN(const std::string_view name, metadata.GetString(kKey));
  for (const Architecture known : kArchitectures) {
    if (name == ArchitectureName(known)) return known;
  }
  std::string known_names;
  for (const Architecture known : kArchitectures) {
    known_names +=
        StrCat(known_names.empty() ? "" : ", ", ArchitectureName(known));
  }
  return absl::UnimplementedError(StrCat(
      "general.architecture is ", Quoted(name), ", known are: ", known_names));
}

// Refuses what would change the forward pass: running the model without it
// would give wrong text, not an error.
absl::Status RefuseUnknownFeatures(const GgufMetadata& metadata,
                                   const ConfigReader& reader) {
  // Plain rotary embedding: no type, or "none".
  const std::string type_key = reader.Key("rope.scaling.type");
  if (metadata.Has(type_key)) {
    ASSIGN_OR_RETURN(const std::string_view type, metadata.GetString(type_key));
    if (type != "none") {
      return absl::UnimplementedError(
          StrCat(type_key, " is ", Quoted(type), ", supported is \"none\""));
    }
  }
  for (const std::string_view name :
       {"rope.scaling.factor", "rope.scale_linear"}) {
    const std::string key = reader.Key(name);
    if (!metadata.Has(key)) continue;
    ASSIGN_OR_RETURN(const float factor, metadata.GetFloat(key));
    if (factor != 1.0f && factor != 0.0f) {
      return absl::UnimplementedError(
          StrCat(key, " is ", factor, ", supported is 1"));
    }
  }
  for (const std::string_view name :
       {"expert_count", "attention.sliding_window"}) {
    ASSIGN_OR_RETURN(const int32_t value, reader.CountOr(name, 0, 1 << 30, 0));
    if (value != 0) {
      return absl::UnimplementedError(
          StrCat(reader.Key(name), " is ", value, ", supported is 0"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadHeads(const ConfigReader& reader, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.heads,
                   reader.Count("attention.head_count", 1, kMaxHeads));
  ASSIGN_OR_RETURN(config.kv_heads, reader.CountOr("attention.head_count_kv", 1,
                                                   config.heads, config.heads));
  if (config.heads % config.kv_heads != 0) {
    return WrongFile(reader.Key("attention.head_count_kv"),
                     StrCat(config.kv_heads),
                     StrCat("a divisor of ", config.heads, " heads"));
  }
  if (!reader.Has("attention.key_length") &&
      config.hidden % config.heads != 0) {
    return WrongFile(reader.Key("embedding_length"), StrCat(config.hidden),
                     StrCat("a multiple of ", config.heads, " heads"));
  }
  ASSIGN_OR_RETURN(config.head_dim,
                   reader.CountOr("attention.key_length", 1, kMaxHeadDim,
                                  config.hidden / config.heads));
  if (config.head_dim < kHeadDimStep || config.head_dim > kMaxHeadDim ||
      config.head_dim % kHeadDimStep != 0) {
    return absl::UnimplementedError(StrCat(
        "the head dimension (", reader.Key("attention.key_length"),
        ", else embedding_length / head_count) is ", config.head_dim,
        ", supported are multiples of ", kHeadDimStep, " up to ", kMaxHeadDim));
  }
  for (const std::string_view name :
       {"attention.value_length", "rope.dimension_count"}) {
    ASSIGN_OR_RETURN(const int32_t value,
                     reader.CountOr(name, 1, kMaxHeadDim, config.head_dim));
    if (value != config.head_dim) {
      return absl::UnimplementedError(
          StrCat(reader.Key(name), " is ", value,
                 ", supported is the head dimension, ", config.head_dim));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadVocabSize(const GgufMetadata& metadata,
                           const ConfigReader& reader, ModelConfig& config) {
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  if (!metadata.Has(kTokens)) {
    return absl::InvalidArgumentError(
        StrCat("the model file has no ", kTokens));
  }
  ASSIGN_OR_RETURN(const int64_t count, metadata.GetArrayLength(kTokens));
  if (count < 1 || count > kMaxVocabSize) {
    return WrongFile(kTokens, StrCat("an array of ", count),
                     StrCat("one of 1 to ", kMaxVocabSize));
  }
  config.vocab_size = static_cast<int32_t>(count);
  if (!reader.Has("vocab_size")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int32_t stated,
                   reader.Count("vocab_size", 1, kMaxVocabSize));
  if (stated != config.vocab_size) {
    return WrongFile(reader.Key("vocab_size"), StrCat(stated),
                     StrCat("the length of ", kTokens, ", ", count));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view ArchitectureName(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return "llama";
    case Architecture::kSmolLm3:
      return "smollm3";
    case Architecture::kQwen2:
      return "qwen2";
    case Architecture::kQwen3:
      return "qwen3";
    case Architecture::kGemma2:
      return "gemma2";
    case Architecture::kGemma3:
      return "gemma3";
  }
  return "";
}

absl::StatusOr<ModelConfig> ReadModelConfig(const GgufMetadata& metadata) {
  ModelConfig config;
  ASSIGN_OR_RETURN(config.architecture, ReadArchitecture(metadata));
  const ConfigReader reader(metadata, ArchitectureName(config.architecture));
  RETURN_IF_ERROR(RefuseUnknownFeatures(metadata, reader));
  ASSIGN_OR_RETURN(config.layers, reader.Count("block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config.hidden,
                   reader.Count("embedding_length", 1, kMaxWidth));
  RETURN_IF_ERROR(ReadHeads(reader, config));
  ASSIGN_OR_RETURN(config.mlp_hidden,
                   reader.Count("feed_forward_length", 1, kMaxMlpWidth));
  ASSIGN_OR_RETURN(config.context_tokens,
                   reader.Count("context_length", 1, kMaxContextTokens));
  ASSIGN_OR_RETURN(config.norm_epsilon,
                   reader.Real("attention.layer_norm_rms_epsilon", 0, 1));
  if (reader.Has("rope.freq_base")) {
    ASSIGN_OR_RETURN(config.rope.base, reader.Real("rope.freq_base", 1, 1e12f));
  }
  config.layer_configs.resize(config.layers);
  config.attention_scale =
      1.0f / std::sqrt(static_cast<float>(config.head_dim));
  RETURN_IF_ERROR(ReadVocabSize(metadata, reader, config));
  return config;
}

}  // namespace sparseserve
