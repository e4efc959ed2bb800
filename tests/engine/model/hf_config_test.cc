#include "engine/model/hf_config.h"

#include <cmath>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "engine/base/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The configurations that published models have, less what nobody reads.

// Llama-3.2-1B-Instruct, transformers 4.
Json Llama() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 8192, "max_position_embeddings": 131072,
    "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
    "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
      "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
      "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 128256})");
}

// The same as transformers 5 writes it.
Json Llama5() {
  Json config = Llama();
  Json rope = config["rope_scaling"];
  rope["rope_theta"] = config["rope_theta"];
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config["rope_parameters"] = rope;
  config["dtype"] = "bfloat16";
  return config;
}

// Mistral-7B-v0.1.
Json Mistral() {
  return Json::parse(R"({
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": false, "vocab_size": 32000})");
}

// SmolLM3-3B, four of its layers.
Json SmolLm3() {
  return Json::parse(R"({
    "architectures": ["SmolLM3ForCausalLM"], "attention_bias": false,
    "bos_token_id": null, "eos_token_id": 128012, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 11008,
    "layer_types": ["full_attention", "full_attention", "full_attention",
      "full_attention"],
    "max_position_embeddings": 65536, "max_window_layers": 28,
    "mlp_bias": false, "model_type": "smollm3", "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0], "num_attention_heads": 16,
    "num_hidden_layers": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_scaling": null, "rope_theta": 5000000.0, "sliding_window": null,
    "use_sliding_window": false, "vocab_size": 128256})");
}

// Qwen2.5-0.5B-Instruct.
Json Qwen2() {
  return Json::parse(R"({
    "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896,
    "intermediate_size": 4864, "max_position_embeddings": 32768,
    "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768,
    "tie_word_embeddings": true, "use_sliding_window": false,
    "vocab_size": 151936})");
}

// Qwen3-0.6B.
Json Qwen3() {
  return Json::parse(R"({
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28,
    "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
    "use_sliding_window": false, "vocab_size": 151936})");
}

// gemma-2-2b-it.
Json Gemma2() {
  return Json::parse(R"({
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": false,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation":
    "hybrid", "eos_token_id": [1, 107], "final_logit_softcapping": 30.0,
    "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
    "intermediate_size": 9216, "max_position_embeddings": 8192,
    "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "query_pre_attn_scalar": 224,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
    "vocab_size": 256000})");
}

// gemma-3-1b-it, transformers 4.
Json Gemma3() {
  return Json::parse(R"({
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": false,
    "attn_logit_softcapping": null, "bos_token_id": 2, "eos_token_id": [1, 106],
    "final_logit_softcapping": null, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "intermediate_size": 6912, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "num_attention_heads": 4,
    "num_hidden_layers": 26, "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000, "rope_scaling": null,
    "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
    "vocab_size": 262144})");
}

// gemma-3-4b-it: text and images, with much left to the defaults.
Json Gemma3WithImages() {
  return Json::parse(R"({
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106], "image_token_index": 262144,
    "mm_tokens_per_image": 256, "model_type": "gemma3",
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
      "model_type": "gemma3_text", "num_hidden_layers": 34,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
      "sliding_window": 1024},
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}
    })");
}

HfConfig Read(const Json& config) {
  const auto read = ReadHfConfig(config.dump());
  EXPECT_TRUE(read.ok()) << read.status();
  return read.ok() ? *read : HfConfig();
}

int LayersThat(const ModelConfig& config,
               const std::function<bool(const LayerConfig&)>& are) {
  int count = 0;
  for (const LayerConfig& layer : config.layer_configs) count += are(layer);
  return count;
}
bool HasWindow(const LayerConfig& layer) { return layer.window_tokens > 0; }

TEST(HfConfigTest, ShapeIsRead) {
  const ModelConfig config = Read(Llama()).model;
  EXPECT_EQ(config.architecture, Architecture::kLlama);
  EXPECT_EQ(config.layers, 16);
  EXPECT_EQ(config.hidden, 2048);
  EXPECT_EQ(config.heads, 32);
  EXPECT_EQ(config.kv_heads, 8);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.mlp_hidden, 8192);
  EXPECT_EQ(config.vocab_size, 128256);
  EXPECT_EQ(config.context_tokens, 131072);
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.125f);
  EXPECT_EQ(config.layer_configs.size(), 16);
}

TEST(HfConfigTest, EveryFamilyRotatesHalves) {
  for (const Json& config : {Llama(), Llama5(), Mistral(), SmolLm3(), Qwen2(),
                             Qwen3(), Gemma2(), Gemma3(), Gemma3WithImages()}) {
    EXPECT_EQ(Read(config).model.rope_pairs, RopePairs::kHalves);
  }
}

TEST(HfConfigTest, Llama3FrequenciesAreTheSameInBothSpellings) {
  for (const Json& config : {Llama(), Llama5()}) {
    const RopeFrequencies rope = Read(config).model.rope;
    EXPECT_EQ(rope.base, 500000);
    const auto* scaling = std::get_if<RopeFrequencies::Llama3>(&rope.scaling);
    ASSERT_NE(scaling, nullptr);
    EXPECT_EQ(scaling->factor, 32);
    EXPECT_EQ(scaling->low_factor, 1);
    EXPECT_EQ(scaling->high_factor, 4);
    EXPECT_EQ(scaling->original_context_tokens, 8192);
  }
}

TEST(HfConfigTest, LinearFrequenciesAreTheSameInEverySpelling) {
  for (const char* scaling :
       {R"({"rope_scaling": {"type": "linear", "factor": 4}})",
        R"({"rope_scaling": {"rope_type": "linear", "factor": 4.0}})",
        R"({"rope_scaling": null, "rope_theta": null,
            "rope_parameters": {"rope_type": "linear", "factor": 4,
                                "rope_theta": 10000}})"}) {
    Json config = Mistral();
    config.update(Json::parse(scaling));
    const RopeFrequencies rope = Read(config).model.rope;
    EXPECT_EQ(rope.base, 10000);
    const auto* linear = std::get_if<RopeFrequencies::Linear>(&rope.scaling);
    ASSERT_NE(linear, nullptr) << scaling;
    EXPECT_EQ(linear->factor, 4);
  }
}

TEST(HfConfigTest, FrequenciesOfTheFamilyHoldWhereTheFileSaysNothing) {
  const auto base = [](Json config) {
    config.erase("rope_theta");
    return Read(config).model.rope.base;
  };
  EXPECT_EQ(base(Mistral()), 10000);
  EXPECT_EQ(base(SmolLm3()), 2000000);
  EXPECT_EQ(base(Gemma3()), 1000000);
}

TEST(HfConfigTest, MistralHasAWindowInEveryLayerUnlessNullSaysNone) {
  Json config = Mistral();
  EXPECT_EQ(LayersThat(Read(config).model, HasWindow), 32);
  EXPECT_EQ(Read(config).model.layer_configs[5].window_tokens, 4096);
  config["sliding_window"] = nullptr;
  EXPECT_EQ(LayersThat(Read(config).model, HasWindow), 0);
  config.erase("sliding_window");
  EXPECT_EQ(LayersThat(Read(config).model, HasWindow), 32);
}

TEST(HfConfigTest, LlamaHasNoWindow) {
  Json config = Llama();
  config["sliding_window"] = 4096;
  EXPECT_EQ(LayersThat(Read(config).model, HasWindow), 0);
}

TEST(HfConfigTest, QwenHasAWindowOnlyIfItIsUsedAndInTheLaterLayers) {
  Json config = Qwen2();
  EXPECT_EQ(LayersThat(Read(config).model, HasWindow), 0);
  config["use_sliding_window"] = true;
  const ModelConfig model = Read(config).model;
  EXPECT_EQ(LayersThat(model, HasWindow), 3);
  EXPECT_EQ(model.layer_configs[20].window_tokens, 0);
  EXPECT_EQ(model.layer_configs[21].window_tokens, 32768);
}

TEST(HfConfigTest, LayerTypesSayWhichLayersHaveTheWindow) {
  Json config = Qwen3();
  config["use_sliding_window"] = true;
  config["sliding_window"] = 100;
  config["num_hidden_layers"] = 3;
  config["layer_types"] = {"sliding_attention", "full_attention",
                           "sliding_attention"};
  const ModelConfig model = Read(config).model;
  EXPECT_EQ(model.layer_configs[0].window_tokens, 100);
  EXPECT_EQ(model.layer_configs[1].window_tokens, 0);
  EXPECT_EQ(model.layer_configs[2].window_tokens, 100);
}

TEST(HfConfigTest, SmolLm3RotatesWhereTheListOrTheIntervalSays) {
  Json config = SmolLm3();
  config["no_rope_layers"] = {0, 1, 1, 1};
  ModelConfig model = Read(config).model;
  EXPECT_FALSE(model.layer_configs[0].rotates);
  EXPECT_TRUE(model.layer_configs[3].rotates);
  config.erase("no_rope_layers");
  model = Read(config).model;
  EXPECT_TRUE(model.layer_configs[0].rotates);
  EXPECT_FALSE(model.layer_configs[3].rotates);
}

TEST(HfConfigTest, QwenHasBiasesOrNormsOfHeads) {
  EXPECT_TRUE(Read(Qwen2()).model.has_qkv_bias);
  EXPECT_FALSE(Read(Qwen2()).model.has_qk_norm);
  EXPECT_FALSE(Read(Qwen3()).model.has_qkv_bias);
  EXPECT_TRUE(Read(Qwen3()).model.has_qk_norm);
  EXPECT_EQ(Read(Qwen3()).model.head_dim, 128);
  EXPECT_EQ(Read(Qwen2()).model.head_dim, 64);
}

TEST(HfConfigTest, Gemma2IsRead) {
  const HfConfig config = Read(Gemma2());
  const ModelConfig& model = config.model;
  EXPECT_EQ(model.architecture, Architecture::kGemma2);
  EXPECT_EQ(model.activation, Activation::kGeluTanh);
  EXPECT_TRUE(model.has_post_norms);
  EXPECT_FLOAT_EQ(model.embedding_scale, 48);
  EXPECT_FLOAT_EQ(model.attention_scale, 1 / std::sqrt(224.0f));
  EXPECT_EQ(model.attention_softcap, 50);
  EXPECT_EQ(model.logit_softcap, 30);
  EXPECT_EQ(model.layer_configs[0].window_tokens, 4096);
  EXPECT_EQ(model.layer_configs[1].window_tokens, 0);
  EXPECT_EQ(LayersThat(model, HasWindow), 13);
  EXPECT_FALSE(model.layer_configs[0].is_local_rope);
  EXPECT_TRUE(config.is_tied);
}

TEST(HfConfigTest, Gemma3IsTheSameInBothSpellings) {
  Json newer = Gemma3();
  for (const char* name : {"rope_theta", "rope_local_base_freq", "rope_scaling",
                           "sliding_window_pattern"}) {
    newer.erase(name);
  }
  newer["_sliding_window_pattern"] = 6;
  newer["rope_parameters"] = Json::parse(R"({
    "full_attention": {"rope_type": "default", "rope_theta": 1000000},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000}})");
  for (const Json& config : {Gemma3(), newer}) {
    const ModelConfig model = Read(config).model;
    EXPECT_EQ(model.rope.base, 1000000);
    EXPECT_EQ(model.local_rope.base, 10000);
    EXPECT_EQ(LayersThat(model, HasWindow), 22);
    EXPECT_EQ(model.layer_configs[4].window_tokens, 512);
    EXPECT_TRUE(model.layer_configs[4].is_local_rope);
    EXPECT_EQ(model.layer_configs[5].window_tokens, 0);
    EXPECT_FALSE(model.layer_configs[5].is_local_rope);
    EXPECT_EQ(model.attention_softcap, 0);
    EXPECT_EQ(model.logit_softcap, 0);
    EXPECT_TRUE(model.has_qk_norm);
  }
}

TEST(HfConfigTest, TextHalfOfAModelWithImagesHasItsFamilysDefaults) {
  const HfConfig config = Read(Gemma3WithImages());
  EXPECT_TRUE(config.has_image_half);
  EXPECT_EQ(config.model.heads, 8);
  EXPECT_EQ(config.model.kv_heads, 4);
  EXPECT_EQ(config.model.head_dim, 256);
  EXPECT_EQ(config.model.vocab_size, 262208);
  EXPECT_EQ(config.model.context_tokens, 131072);
  const auto* linear =
      std::get_if<RopeFrequencies::Linear>(&config.model.rope.scaling);
  ASSERT_NE(linear, nullptr);
  EXPECT_EQ(linear->factor, 8);
  EXPECT_TRUE(
      std::holds_alternative<std::monostate>(config.model.local_rope.scaling));
  EXPECT_THAT(config.end_tokens, ElementsAre(1, 106));
}

TEST(HfConfigTest, HeadIsTiedAsTheFileOrElseTheFamilySays) {
  const auto is_tied = [](Json config, const Json& value) {
    config.erase("tie_word_embeddings");
    if (!value.is_null()) config["tie_word_embeddings"] = value;
    return Read(config).is_tied;
  };
  EXPECT_FALSE(is_tied(Llama(), nullptr));
  EXPECT_TRUE(is_tied(Llama(), true));
  EXPECT_TRUE(is_tied(SmolLm3(), nullptr));
  EXPECT_FALSE(is_tied(Gemma3(), false));
}

TEST(HfConfigTest, KvHeadsThatAreNullAreAsManyAsHeads) {
  Json config = Mistral();
  config["num_key_value_heads"] = nullptr;
  EXPECT_EQ(Read(config).model.kv_heads, 32);
  config.erase("num_key_value_heads");
  EXPECT_EQ(Read(config).model.kv_heads, 8);
}

TEST(HfConfigTest, EndTokensAreOneOrSeveral) {
  EXPECT_THAT(Read(Llama()).end_tokens, ElementsAre(128001, 128008, 128009));
  EXPECT_THAT(Read(Qwen2()).end_tokens, ElementsAre(151645));
  EXPECT_THAT(*ReadHfEndTokens(R"({"eos_token_id": [3, 2]})", 10),
              ElementsAre(3, 2));
  EXPECT_THAT(*ReadHfEndTokens(R"({"eos_token_id": 7, "top_p": 0.9})", 10),
              ElementsAre(7));
  EXPECT_THAT(*ReadHfEndTokens("{}", 10), IsEmpty());
  const absl::Status status =
      ReadHfEndTokens(R"({"eos_token_id": [3, 10]})", 10).status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("generation_config.json: eos_token_id is 10"));
}

struct BadValue {
  std::string patch;  // a JSON merge patch
  std::string message;
};

void ExpectErrors(absl::StatusCode code, const Json& config,
                  const std::vector<BadValue>& table) {
  for (const BadValue& row : table) {
    Json changed = config;
    changed.update(Json::parse(row.patch));
    const absl::Status status = ReadHfConfig(changed.dump()).status();
    EXPECT_EQ(status.code(), code) << row.patch << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message))
        << row.patch;
  }
}

TEST(HfConfigTest, MissingFieldsAreNamed) {
  for (const char* name :
       {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "vocab_size", "max_position_embeddings"}) {
    Json config = Qwen2();
    config.erase(name);
    const absl::Status status = ReadHfConfig(config.dump()).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(StrCat("config.json has no ", name)));
  }
}

TEST(HfConfigTest, ValuesOutOfRangeAreNamedWithTheirRange) {
  ExpectErrors(
      absl::StatusCode::kInvalidArgument, Mistral(),
      {
          {R"({"num_hidden_layers": 0})",
           "config.json: num_hidden_layers is 0, not a whole number within 1 "
           "and 1024"},
          {R"({"num_hidden_layers": 1025})", "within 1 and 1024"},
          {R"({"num_hidden_layers": -1})", "num_hidden_layers is -1"},
          {R"({"num_hidden_layers": 4.5})", "num_hidden_layers is 4.5"},
          {R"({"num_hidden_layers": "4"})", "num_hidden_layers is \"4\""},
          {R"({"num_hidden_layers": true})", "num_hidden_layers is true"},
          {R"({"num_hidden_layers": [4]})", "num_hidden_layers is an array"},
          {R"({"hidden_size": 18446744073709551615})",
           "hidden_size is 18446744073709551615"},
          {R"({"hidden_size": 65537})", "within 1 and 65536"},
          {R"({"hidden_size": 4097})", "a multiple of 32 heads"},
          {R"({"intermediate_size": 0})", "intermediate_size is 0"},
          {R"({"num_attention_heads": 2000})", "within 1 and 1024"},
          {R"({"num_key_value_heads": 33})", "within 1 and 32"},
          {R"({"num_key_value_heads": 5})", "a divisor of 32 heads"},
          {R"({"vocab_size": 5000000})", "within 1 and 4194304"},
          {R"({"max_position_embeddings": 1000000})", "within 1 and 262144"},
          {R"({"rms_norm_eps": 0})", "rms_norm_eps is 0, must be above 0"},
          {R"({"rms_norm_eps": 1})", "rms_norm_eps is 1"},
          {R"({"rms_norm_eps": "1e-5"})", "rms_norm_eps is \"1e-5\""},
          {R"({"rope_theta": 1})", "rope_theta is 1, must be above 1"},
          {R"({"rope_theta": 1e300})", "rope_theta is 1e+300"},
          {R"({"sliding_window": 0})", "sliding_window is 0"},
          {R"({"tie_word_embeddings": 1})", "tie_word_embeddings is 1"},
          {R"({"hidden_act": 1})", "hidden_act is 1"},
          {R"({"eos_token_id": 32000})", "eos_token_id is 32000"},
          {R"({"eos_token_id": [2, -1]})", "eos_token_id is -1"},
          {R"({"eos_token_id": "</s>"})", "eos_token_id is \"</s>\""},
          {R"({"model_type": 7})", "model_type is 7"},
          {R"({"rope_scaling": []})", "rope_scaling is an array"},
          {R"({"rope_scaling": {"type": "linear"}})",
           "rope_scaling has no factor"},
          {R"({"rope_scaling": {"type": "linear", "factor": 0}})",
           "config.json: rope_scaling: factor is 0"},
          {R"({"rope_scaling": {"type": 5}})", "type is 5"},
          {R"({"rope_parameters": {"rope_theta": -5}})", "rope_theta is -5"},
      });
}

TEST(HfConfigTest, ScalingOutOfRangeIsNamed) {
  const auto with = [](const char* name, const Json& value) {
    Json rope = Llama()["rope_scaling"];
    rope[name] = value;
    return Json{{"rope_scaling", rope}}.dump();
  };
  ExpectErrors(absl::StatusCode::kInvalidArgument, Llama(),
               {{with("factor", nullptr), "rope_scaling has no factor"},
                {with("low_freq_factor", 0), "low_freq_factor is 0"},
                {with("high_freq_factor", 1),
                 "high_freq_factor is 1, must be above low_freq_factor, 1"},
                {with("original_max_position_embeddings", 0),
                 "original_max_position_embeddings is 0"}});
}

TEST(HfConfigTest, LayerListsOutOfRangeAreNamed) {
  ExpectErrors(
      absl::StatusCode::kInvalidArgument, SmolLm3(),
      {
          {R"({"no_rope_layers": [1, 1]})", "has 2 elements, fewer than 4"},
          {R"({"no_rope_layers": [1, 1, 1, 2]})", "no_rope_layers[3] is 2"},
          {R"({"no_rope_layer_interval": 0})", "no_rope_layer_interval is 0"},
          {R"({"layer_types": ["full_attention"]})",
           "layer_types has 1 elements, fewer than 4"},
          {R"({"layer_types": [1, 2, 3, 4]})", "layer_types[0] is 1"},
          {R"({"layer_types": ["sliding_attention", "full_attention",
               "full_attention", "full_attention"]})",
           "layer 0 has sliding_attention, but config.json: sliding_window"},
      });
  ExpectErrors(
      absl::StatusCode::kInvalidArgument, Gemma3(),
      {{R"({"sliding_window_pattern": 0})", "sliding_window_pattern is 0"},
       {R"({"attn_logit_softcapping": 0})",
        "attn_logit_softcapping is 0, must be above 0"},
       {R"({"query_pre_attn_scalar": -1})", "query_pre_attn_scalar is -1"},
       {R"({"rope_parameters": {"rope_theta": 10000}})",
        "rope_parameters has no full_attention"}});
}

TEST(HfConfigTest, WhatTheEngineLacksIsUnimplementedByName) {
  ExpectErrors(
      absl::StatusCode::kUnimplemented, Llama(),
      {
          {R"({"model_type": "mamba"})",
           "config.json: model_type is \"mamba\", known are: llama, mistral, "
           "smollm3, qwen2, qwen3, gemma2, gemma3_text, gemma3"},
          {R"({"head_dim": 12})", "is 12, supported are multiples of 8 up to "},
          {R"({"head_dim": 512})", "is 512, supported are multiples of 8"},
          {R"({"hidden_act": "gelu"})", "hidden_act is \"gelu\""},
          {R"({"attention_bias": true})", "attention_bias is true"},
          {R"({"mlp_bias": true})", "mlp_bias is true"},
          {R"({"quantization_config": {"quant_method": "fp8"}})",
           "quantization_config"},
          {R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor is 0.5"},
          {R"({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})",
           "rope_scaling: rope_type is \"yarn\""},
          {R"({"rope_scaling": {"type": "dynamic", "factor": 4.0}})",
           "rope_scaling: type is \"dynamic\""},
          {R"({"rope_scaling": null, "rope_parameters":
               {"full_attention": {"rope_type": "default"}}})",
           "frequencies by layer type are not supported for model_type llama"},
      });
  ExpectErrors(absl::StatusCode::kUnimplemented, Gemma3(),
               {{R"({"use_bidirectional_attention": true})",
                 "use_bidirectional_attention is true"}});
  Json chunked = SmolLm3();
  chunked["layer_types"][2] = "chunked_attention";
  ExpectErrors(absl::StatusCode::kUnimplemented, chunked,
               {{"{}", "layer_types[2] is \"chunked_attention\""}});
}

TEST(HfConfigTest, TextThatIsNoConfigurationIsAnError) {
  const std::vector<BadValue> table = {
      {"", "config.json is not JSON at byte 0"},
      {"{\"model_type\":", "config.json is not JSON at byte 14"},
      {"[]", "config.json is an array of 0, not an object"},
      {"{\"model_type\": \"llama\", \"model_type\": \"qwen2\"}",
       "config.json has the key \"model_type\" twice in one object"},
      {std::string(100'000, '['), "config.json nests deeper than 32"},
      {"{\"a\": \"\xff\"}", "config.json is not JSON at byte 7"},
      {"{\"a\": 1e999}", "config.json is not JSON at byte 10"},
  };
  for (const BadValue& row : table) {
    const absl::Status status = ReadHfConfig(row.patch).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message));
  }
  std::string many = "{\"a\":[0";
  for (int i = 0; i < 1'000'000; ++i) many += ",0";
  EXPECT_THAT(std::string(ReadHfConfig(many + "]}").status().message()),
              HasSubstr("config.json has more than 1000000 values"));
}

}  // namespace
}  // namespace sparseserve
