#include "engine/model/model_config.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/config_reader.h"
#include "engine/model/family_config.h"
#include "engine/model/model_limits.h"

namespace sparseserve {
namespace {

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

absl::Status ReadHeads(const ConfigReader& reader, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.heads,
                   reader.Count("attention.head_count", 1, kMaxHeads));
  ASSIGN_OR_RETURN(config.kv_heads, reader.CountOr("attention.head_count_kv", 1,
                                                   config.heads, config.heads));
  if (config.heads % config.kv_heads != 0) {
    return ConfigReader::Wrong(reader.Key("attention.head_count_kv"),
                               StrCat(config.kv_heads),
                               StrCat("a divisor of ", config.heads, " heads"));
  }
  if (!reader.Has("attention.key_length") &&
      config.hidden % config.heads != 0) {
    return ConfigReader::Wrong(
        reader.Key("embedding_length"), StrCat(config.hidden),
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
       {"attention.value_length", "rope.dimension_count",
        "attention.key_length_swa", "attention.value_length_swa",
        "rope.dimension_count_swa"}) {
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
    return ConfigReader::Wrong(kTokens, StrCat("an array of ", count),
                               StrCat("one of 1 to ", kMaxVocabSize));
  }
  config.vocab_size = static_cast<int32_t>(count);
  if (!reader.Has("vocab_size")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int32_t stated,
                   reader.Count("vocab_size", 1, kMaxVocabSize));
  if (stated != config.vocab_size) {
    return ConfigReader::Wrong(reader.Key("vocab_size"), StrCat(stated),
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
  RETURN_IF_ERROR(RefuseUnknownFeatures(reader));
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
  RETURN_IF_ERROR(ReadFamily(reader, config));
  RETURN_IF_ERROR(ReadVocabSize(metadata, reader, config));
  return config;
}

std::vector<int32_t> ModelConfig::KvHeadsOf(int32_t layer) const {
  const std::vector<int32_t>& pruned = layer_configs[layer].pruned_kv_heads;
  std::vector<int32_t> kept;
  for (int32_t head = 0; head < kv_heads; ++head) {
    if (!std::binary_search(pruned.begin(), pruned.end(), head)) {
      kept.push_back(head);
    }
  }
  return kept;
}

}  // namespace sparseserve
