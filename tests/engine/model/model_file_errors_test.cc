// What is wrong with a model's configuration or weights is named when the
// model is loaded.

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using testing::CreateEngine;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TinyModel;

struct Row {
  std::string key;
  std::optional<GgufWriter::Value> value;  // none: the key is left out
  std::string message;
};

void ExpectErrors(absl::StatusCode code, const std::vector<Row>& table) {
  for (const Row& row : table) {
    TinyModel model;
    model.overrides[row.key] = row.value;
    const absl::Status status = CreateEngine(model.Build()).status();
    EXPECT_EQ(status.code(), code) << row.key << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message))
        << row.key;
  }
}

// What loading a model with one more vector says.
absl::Status WithVector(const char* name, const std::vector<float>& values,
                        const TinyModel& model = {}) {
  GgufWriter writer;
  model.AddMetadata(writer);
  model.AddTensors(writer);
  writer.AddFloats(name, 0, values.size(), values);
  return CreateEngine(writer.Build()).status();
}

TEST(ModelFileErrorsTest, MissingKeysAreNamed) {
  std::vector<Row> table;
  for (const char* key :
       {"general.architecture", "llama.block_count", "llama.context_length",
        "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.tokens", "tokenizer.ggml.model"}) {
    table.push_back({key, std::nullopt, key});
  }
  ExpectErrors(absl::StatusCode::kInvalidArgument, table);
}

TEST(ModelFileErrorsTest, KeysThatMayBeMissingHaveDefaults) {
  TinyModel model;
  for (const char* key :
       {"llama.rope.dimension_count", "llama.attention.key_length",
        "llama.attention.value_length", "llama.vocab_size", "general.name"}) {
    model.overrides[key] = std::nullopt;
  }
  const auto engine = CreateEngine(model.Build());
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->info().head_dim, 16);
  EXPECT_EQ((*engine)->info().name, "");
}

TEST(ModelFileErrorsTest, ValuesOutOfRangeAreNamedWithTheirRange) {
  constexpr uint32_t kHuge = 0xffffffff;
  ExpectErrors(
      absl::StatusCode::kInvalidArgument,
      {
          {"llama.block_count", uint32_t{0}, "is 0, must be from 1 to 1024"},
          {"llama.block_count", kHuge, "from 1 to 1024"},
          {"llama.context_length", uint32_t{0}, "from 1 to"},
          {"llama.context_length", kHuge, "from 1 to"},
          {"llama.embedding_length", uint32_t{0}, "from 1 to"},
          {"llama.embedding_length", kHuge, "from 1 to"},
          {"llama.feed_forward_length", uint32_t{0}, "from 1 to"},
          {"llama.feed_forward_length", kHuge, "from 1 to"},
          {"llama.attention.head_count", uint32_t{0}, "from 1 to"},
          {"llama.attention.head_count", kHuge, "from 1 to"},
          {"llama.attention.head_count_kv", uint32_t{0}, "from 1 to 4"},
          {"llama.attention.head_count_kv", uint32_t{3}, "a divisor of 4"},
          {"llama.attention.head_count_kv", uint32_t{8}, "from 1 to 4"},
          {"llama.attention.key_length", uint32_t{512}, "from 1 to 256"},
          {"llama.rope.freq_base", 0.0f, "above 1"},
          {"llama.rope.freq_base", -1.0f, "above 1"},
          {"llama.rope.freq_base", std::numeric_limits<float>::quiet_NaN(),
           "above 1"},
          {"llama.attention.layer_norm_rms_epsilon", 0.0f, "above 0"},
          {"llama.attention.layer_norm_rms_epsilon", 1.0f, "below 1"},
          {"llama.vocab_size", uint32_t{259}, "258"},
          {"llama.rope.scaling.factor", -4.0f, "is -4, must be above 0"},
          {"llama.rope.scaling.factor", std::numeric_limits<float>::infinity(),
           "llama.rope.scaling.factor is inf"},
          {"llama.attention.sliding_window", uint32_t{0xffffffff},
           "llama.attention.sliding_window is 4294967295, must be from 0"},
          {"llama.block_count", std::string("two"), "llama.block_count"},
          {"llama.rope.freq_base", uint32_t{10000}, "llama.rope.freq_base"},
          {"general.architecture", uint32_t{1}, "general.architecture"},
      });
}

TEST(ModelFileErrorsTest, WidthMustSplitIntoHeads) {
  TinyModel model;
  model.overrides["llama.attention.key_length"] = std::nullopt;
  model.overrides["llama.attention.head_count"] = uint32_t{6};
  EXPECT_THAT(std::string(CreateEngine(model.Build()).status().message()),
              HasSubstr("a multiple of 6 heads"));
}

TEST(ModelFileErrorsTest, WhatTheEngineLacksIsUnimplementedByName) {
  ExpectErrors(
      absl::StatusCode::kUnimplemented,
      {
          {"general.architecture", std::string("mamba"),
           "\"mamba\", known are: llama, smollm3, qwen2, qwen3, gemma2, "
           "gemma3"},
          {"llama.attention.key_length", uint32_t{12},
           "is 12, supported are multiples of 8 up to 256"},
          {"llama.rope.dimension_count", uint32_t{8},
           "llama.rope.dimension_count is 8"},
          {"llama.attention.value_length", uint32_t{32},
           "llama.attention.value_length is 32"},
          {"llama.rope.scaling.type", std::string("yarn"),
           "llama.rope.scaling.type is \"yarn\""},
          {"llama.rope.scaling.type", std::string("longrope"),
           "\"longrope\", supported are \"none\" and \"linear\""},
          {"llama.rope.scaling.attn_factor", 0.5f,
           "llama.rope.scaling.attn_factor is 0.5, supported is 1"},
          {"llama.expert_count", uint32_t{8}, "llama.expert_count is 8"},
          {"llama.attention.sliding_window_pattern", uint32_t{2},
           "llama.attention.sliding_window_pattern is 2"},
          {"llama.attn_logit_softcapping", 50.0f,
           "llama.attn_logit_softcapping is 50, supported is 0"},
          {"llama.final_logit_softcapping", 30.0f,
           "llama.final_logit_softcapping is 30, supported is 0"},
          {"llama.attention.max_alibi_bias", 8.0f,
           "llama.attention.max_alibi_bias is 8"},
          {"llama.attention.clamp_kqv", 8.0f, "llama.attention.clamp_kqv is 8"},
          {"llama.logit_scale", 0.5f, "llama.logit_scale is 0.5"},
          {"llama.attention.causal", false,
           "llama.attention.causal is false, supported is true"},
      });
}

TEST(ModelFileErrorsTest, KeysThatChangeNothingAreTaken) {
  TinyModel model;
  model.overrides["llama.rope.scaling.type"] = std::string("none");
  model.overrides["llama.rope.scaling.factor"] = 1.0f;
  model.overrides["llama.rope.scaling.attn_factor"] = 1.0f;
  model.overrides["llama.attention.sliding_window"] = uint32_t{0};
  model.overrides["llama.attention.causal"] = true;
  model.overrides["llama.expert_count"] = uint32_t{0};
  const absl::Status status = CreateEngine(model.Build()).status();
  EXPECT_TRUE(status.ok()) << status;
}

TEST(ModelFileErrorsTest, TensorsThatAreMissingOrMisshapenAreNamed) {
  ExpectErrors(
      absl::StatusCode::kInvalidArgument,
      {
          {"llama.block_count", uint32_t{3},
           "tensor blk.2.attn_norm.weight is missing, wanted shape [64]"},
          {"llama.feed_forward_length", uint32_t{128},
           "tensor blk.0.ffn_gate.weight has shape [64, 96], wanted "
           "[64, 128]"},
          {"llama.embedding_length", uint32_t{128},
           "tensor token_embd.weight has shape [64, 258], wanted [128, 258]"},
          {"llama.attention.head_count_kv", uint32_t{4},
           "tensor blk.0.attn_k.weight has shape [64, 32], wanted [64, 64]"},
      });
}

TEST(ModelFileErrorsTest, MatrixThatTheDeviceCannotTakeIsNamed) {
  const TinyModel model = {.mlp_hidden = 40};
  const absl::Status status = CreateEngine(model.Build()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor blk.0.ffn_down.weight: a weight has 40"));
}

TEST(ModelFileErrorsTest, TensorsWithoutUseAreNotIgnored) {
  ExpectErrors(absl::StatusCode::kUnimplemented,
               {{"llama.block_count", uint32_t{1}, "blk.1."}});
  for (const char* name : {"blk.0.attn_output.bias", "blk.0.attn_q_norm.weight",
                           "blk.0.post_ffw_norm.weight"}) {
    const absl::Status status = WithVector(name, std::vector<float>(8, 1.0f));
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST(ModelFileErrorsTest, RopeDivisorsMustBeOneForEachPairAndPositive) {
  constexpr char kName[] = "rope_freqs.weight";
  EXPECT_TRUE(WithVector(kName, std::vector<float>(8, 2.0f)).ok());
  const absl::Status wrong_size =
      WithVector(kName, std::vector<float>(16, 2.0f));
  EXPECT_TRUE(absl::IsInvalidArgument(wrong_size)) << wrong_size;
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> divisors(8, 2.0f);
    divisors[7] = bad;
    const absl::Status status = WithVector(kName, divisors);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(kName));
  }
}

TEST(ModelFileErrorsTest, RopeIsNotScaledTwice) {
  TinyModel model;
  model.overrides["llama.rope.scaling.factor"] = 4.0f;
  const absl::Status status =
      WithVector("rope_freqs.weight", std::vector<float>(8, 2.0f), model);
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
}

TEST(ModelFileErrorsTest, BiasOfQueriesAloneIsMissingTheOthers) {
  const absl::Status status =
      WithVector("blk.0.attn_q.bias", std::vector<float>(64, 1.0f));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor blk.0.attn_k.bias is missing"));
}

TEST(ModelFileErrorsTest, FileCutAnywhereIsAnError) {
  const std::string bytes = TinyModel{.layers = 1}.Build();
  for (size_t length = 0; length < bytes.size();
       length += 1 + bytes.size() / 97) {
    EXPECT_TRUE(
        absl::IsInvalidArgument(CreateEngine(bytes.substr(0, length)).status()))
        << length << " of " << bytes.size() << " bytes";
  }
}

}  // namespace
}  // namespace sparseserve
