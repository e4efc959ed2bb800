// The engine on the default model, in the mode that it picks by itself.

#include "tests/testing/default_model.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

class DefaultModelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    Engine::Options options;
    options.model_path = testing::DefaultModelPath();
    options.kv_cache_bytes = int64_t{512} << 20;
    options.progress = [](const char*, double done) { progress_ = done; };
    auto engine = Engine::Create(std::move(options));
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(engine).value().release();
  }
  static void TearDownTestSuite() {
    delete engine_;
    engine_ = nullptr;
  }

  // Greedy continuation of `prompt`, until an end token or `count` tokens.
  static std::string Continue(std::vector<TokenId> prompt, int count) {
    SamplingParams greedy;
    greedy.temperature = 0;
    const std::vector<PageId> pages = {3, 1, 2, 0};
    std::vector<TokenId> tokens = std::move(prompt);
    size_t done = 0;
    std::string text;
    for (int i = 0; i < count; ++i) {
      StepSlice slice;
      slice.phase = i == 0 ? Phase::kPrefill : Phase::kDecode;
      slice.tokens = absl::MakeConstSpan(tokens).subspan(done);
      slice.first_position = static_cast<int>(done);
      slice.pages = pages;
      slice.wants_token = true;
      slice.sampling = &greedy;
      const auto result = engine_->Step({{slice}});
      EXPECT_TRUE(result.ok()) << result.status();
      if (!result.ok()) break;
      const SliceResult& sampled = result->slices[0];
      EXPECT_TRUE(sampled.status.ok()) << sampled.status;
      if (engine_->tokenizer().IsSpecial(sampled.token)) break;
      text += engine_->tokenizer().TokenBytes(sampled.token);
      done = tokens.size();
      tokens.push_back(sampled.token);
    }
    return text;
  }

  static inline Engine* engine_ = nullptr;
  static inline double progress_ = 0;
};

TEST_F(DefaultModelTest, TellsWhatItLoaded) {
  const ModelInfo& info = engine_->info();
  EXPECT_EQ(info.architecture, "llama");
  EXPECT_EQ(info.weight_dtype, "Q4_1");
  EXPECT_EQ(info.parameters, 134515008);
  EXPECT_EQ(info.context_tokens, 8192);
  EXPECT_EQ(info.vocab_size, 49152);
  EXPECT_EQ(info.layers, 30);
  EXPECT_EQ(info.heads, 9);
  EXPECT_EQ(info.kv_heads, 3);
  EXPECT_EQ(info.head_dim, 64);
  EXPECT_EQ(info.chat_template, "chatml");
  EXPECT_EQ(progress_, 1.0);
  EXPECT_LE(engine_->memory().kv_bytes, int64_t{512} << 20);
  EXPECT_GE(engine_->kv_pages(), 8192 / kPageTokens);
}

TEST_F(DefaultModelTest, ContinuesTextSensibly) {
  const auto prompt =
      engine_->tokenizer().Encode("The capital of France is", false);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_THAT(Continue(*prompt, 8), HasSubstr("Paris"));
}

TEST_F(DefaultModelTest, AnswersAChatTurn) {
  const ChatMessage question = {
      "user", "What is the capital of Italy? Answer in one short sentence."};
  const auto prompt =
      engine_->chat_template()->Encode(engine_->tokenizer(), {&question, 1});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_THAT(Continue(*prompt, 24), HasSubstr("Rome"));
}

}  // namespace
}  // namespace sparseserve
