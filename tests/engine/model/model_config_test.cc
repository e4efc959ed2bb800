#include "engine/model/model_config.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "engine/model/gguf_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;

// Keys without the architecture's prefix, over those of a small model.
using Keys = std::map<std::string, GgufWriter::Value>;

absl::StatusOr<ModelConfig> Read(const std::string& architecture, Keys keys) {
  const Keys needed = {
      {"block_count", uint32_t{7}},
      {"context_length", uint32_t{512}},
      {"embedding_length", uint32_t{64}},
      {"feed_forward_length", uint32_t{96}},
      {"attention.head_count", uint32_t{4}},
      {"attention.head_count_kv", uint32_t{2}},
      {"attention.key_length", uint32_t{32}},
      {"attention.value_length", uint32_t{32}},
      {"attention.layer_norm_rms_epsilon", 1e-5f},
  };
  keys.insert(needed.begin(), needed.end());
  GgufWriter writer;
  writer.Add("general.architecture", architecture);
  for (const auto& [key, value] : keys) {
    writer.Add(architecture + "." + key, value);
  }
  writer.Add("tokenizer.ggml.tokens", std::vector<std::string>(3, "x"));
  const std::string bytes = writer.Build();
  const auto file = GgufFile::Parse(absl::MakeConstSpan(
      reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
  return ReadModelConfig((*file)->metadata());
}

std::vector<int32_t> Windows(const ModelConfig& config) {
  std::vector<int32_t> windows;
  for (const LayerConfig& layer : config.layer_configs) {
    windows.push_back(layer.window_tokens);
  }
  return windows;
}

TEST(ModelConfigTest, LlamaHasItsWindowInEveryLayer) {
  const auto config =
      Read("llama", {{"attention.sliding_window", uint32_t{70}}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(Windows(*config), ElementsAre(70, 70, 70, 70, 70, 70, 70));
  EXPECT_EQ(config->rope_pairs, RopePairs::kAdjacent);
  EXPECT_EQ(config->activation, Activation::kSilu);
}

TEST(ModelConfigTest, LinearScalingHasTwoNamesAndNeedsNoType) {
  for (const char* key : {"rope.scaling.factor", "rope.scale_linear"}) {
    const auto config = Read("llama", {{key, 4.0f}});
    ASSERT_TRUE(config.ok()) << config.status();
    const auto* linear =
        std::get_if<RopeFrequencies::Linear>(&config->rope.scaling);
    ASSERT_NE(linear, nullptr) << key;
    EXPECT_EQ(linear->factor, 4);
  }
}

TEST(ModelConfigTest, ScalingOfTypeNoneIsNone) {
  const auto config = Read("llama", {{"rope.scaling.type", std::string("none")},
                                     {"rope.scaling.factor", 4.0f}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(std::holds_alternative<std::monostate>(config->rope.scaling));
}

TEST(ModelConfigTest, SmolLm3DoesNotRotateEveryFourthLayer) {
  const auto config = Read("smollm3", {});
  ASSERT_TRUE(config.ok()) << config.status();
  std::vector<bool> rotates;
  for (const LayerConfig& layer : config->layer_configs) {
    rotates.push_back(layer.rotates);
  }
  EXPECT_THAT(rotates, ElementsAre(true, true, true, false, true, true, true));
  EXPECT_EQ(config->rope_pairs, RopePairs::kAdjacent);
}

TEST(ModelConfigTest, Gemma2HasDefaultsThatItsFilesMayLeaveOut) {
  const auto config = Read("gemma2", {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(Windows(*config), ElementsAre(4096, 0, 4096, 0, 4096, 0, 4096));
  EXPECT_EQ(config->attention_softcap, 50);
  EXPECT_EQ(config->logit_softcap, 30);
  EXPECT_EQ(config->embedding_scale, 8);
  EXPECT_FLOAT_EQ(config->attention_scale, 1 / std::sqrt(32.0f));
  EXPECT_TRUE(config->has_post_norms);
  EXPECT_FALSE(config->has_qk_norm);
  for (const LayerConfig& layer : config->layer_configs) {
    EXPECT_FALSE(layer.is_local_rope);
  }
}

TEST(ModelConfigTest, LargestGemmasAreScaledByTheirHiddenSize) {
  for (const auto& [architecture, layers] :
       std::map<std::string, uint32_t>{{"gemma2", 46}, {"gemma3", 62}}) {
    const auto config = Read(architecture, {{"block_count", layers}});
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->attention_scale, 0.25f) << architecture;  // 64 / 4 heads
  }
}

TEST(ModelConfigTest, Gemma3TurnsLocalLayersByABaseOfTheirOwn) {
  const auto config = Read("gemma3", {{"attention.sliding_window", uint32_t{9}},
                                      {"rope.freq_base", 1e6f},
                                      {"rope.scaling.factor", 8.0f}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(Windows(*config), ElementsAre(9, 9, 9, 9, 9, 0, 9));
  EXPECT_TRUE(config->layer_configs[4].is_local_rope);
  EXPECT_FALSE(config->layer_configs[5].is_local_rope);
  EXPECT_EQ(config->rope.base, 1e6f);
  EXPECT_EQ(config->local_rope.base, 10000);
  EXPECT_TRUE(
      std::holds_alternative<std::monostate>(config->local_rope.scaling));
  EXPECT_EQ(config->logit_softcap, 0);
}

TEST(ModelConfigTest, KeysSayGemmasPatternAndLocalBase) {
  const auto config =
      Read("gemma3", {{"attention.sliding_window", uint32_t{9}},
                      {"attention.sliding_window_pattern", uint32_t{2}},
                      {"rope.freq_base_swa", 500.0f}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(Windows(*config), ElementsAre(9, 0, 9, 0, 9, 0, 9));
  EXPECT_EQ(config->local_rope.base, 500);
}

TEST(ModelConfigTest, Gemma3WithoutAWindowHasNoLocalLayers) {
  const auto config = Read("gemma3", {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(Windows(*config), ElementsAre(0, 0, 0, 0, 0, 0, 0));
  EXPECT_FALSE(config->layer_configs[0].is_local_rope);
}

TEST(ModelConfigTest, WindowsOfOtherFamiliesAreUnimplemented) {
  for (const char* architecture : {"smollm3", "qwen2", "qwen3"}) {
    const absl::Status status =
        Read(architecture, {{"attention.sliding_window", uint32_t{70}}})
            .status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("attention.sliding_window is 70, supported is 0"));
  }
}

TEST(ModelConfigTest, PatternLayerByLayerIsAnError) {
  const absl::Status status =
      Read("gemma3", {{"attention.sliding_window_pattern",
                       std::vector<int32_t>{1, 0, 1, 0, 1, 0, 1}}})
          .status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("gemma3.attention.sliding_window_pattern"));
}

}  // namespace
}  // namespace sparseserve
