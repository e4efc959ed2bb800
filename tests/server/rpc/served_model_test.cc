#include "server/rpc/served_model.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/testing/fake_engine.h"

namespace sparseserve {
namespace {

using testing::FakeEngine;
using testing::FakeTokenizer;

TEST(DescribeModelTest, LimitsFollowFromWhatTheSchedulerCanHold) {
  FakeEngine::Options options;
  options.context_tokens = 1000;
  options.pieces = {"abc"};
  const FakeEngine engine(options);
  const ServedModel model =
      DescribeModel(engine, {.name = "models/m",
                             .max_request_tokens = 640,
                             .max_step_tokens = 512,
                             .default_max_output_tokens = 256});
  EXPECT_EQ(model.name, "models/m");
  EXPECT_EQ(model.info.context_tokens, 1000);
  EXPECT_EQ(model.compute_dtype, "f32");
  EXPECT_EQ(model.max_request_tokens, 640);
  EXPECT_EQ(model.max_prompt_tokens, 639);
  EXPECT_EQ(model.default_max_output_tokens, 256);
  EXPECT_EQ(model.max_prompt_bytes, 3 * 639);
  EXPECT_EQ(model.max_step_tokens, 512);
  EXPECT_NE(model.chat_template, nullptr);
}

TEST(DescribeModelTest, TheDefaultOutputLeavesRoomForAPrompt) {
  const FakeEngine engine({});
  const ServedModel model = DescribeModel(
      engine, {.max_request_tokens = 100, .default_max_output_tokens = 256});
  EXPECT_EQ(model.default_max_output_tokens, 99);
}

TEST(DescribeModelTest, EveryModelHasTheDensePlanAndThoseOfTheConfig) {
  const FakeEngine engine({});
  EXPECT_EQ(DescribeModel(engine, {.max_request_tokens = 9}).plans.size(), 1);
  const ServedModel model = DescribeModel(
      engine,
      {.max_request_tokens = 9, .plans = {{"fast", {XAttentionPattern{}}}}});
  ASSERT_EQ(model.plans.size(), 2);
  EXPECT_EQ(model.plans[0].name, "dense");
  EXPECT_EQ(model.plans[0].choice.pattern, PatternSpec(DensePattern()));
  EXPECT_EQ(model.plans[1].name, "fast");
  EXPECT_EQ(model.plans[1].choice.pattern, PatternSpec(XAttentionPattern()));
}

TEST(LongestTokenTest, SpecialTokensAreNoText) {
  const FakeTokenizer tokenizer({"ab"});
  EXPECT_GT(tokenizer.TokenBytes(FakeTokenizer::kEndToken).size(), 2);
  EXPECT_EQ(LongestTokenBytes(tokenizer), 2);
}

TEST(ModelResourceNameTest, TheLabelIsTakenAsItIs) {
  EXPECT_EQ(ModelResourceName("Tiny-1.5_b", "/x/y.gguf").value(),
            "models/Tiny-1.5_b");
}

TEST(ModelResourceNameTest, WithoutALabelTheFilesNameIsMadeOne) {
  EXPECT_EQ(ModelResourceName("", "/a/SmolLM2-135M-Instruct.Q4_1.gguf").value(),
            "models/smollm2-135m-instruct.q4_1");
  EXPECT_EQ(ModelResourceName("", "My  model (v2).gguf").value(),
            "models/my-model-v2");
  EXPECT_EQ(ModelResourceName("", "\xC3\xA9.gguf").value(), "models/default");
}

TEST(ModelResourceNameTest, WithoutALabelADirectorysNameIsMadeOne) {
  for (const char* path : {"/a/Qwen2.5-0.5B", "/a/Qwen2.5-0.5B/"}) {
    EXPECT_EQ(ModelResourceName("", path).value(), "models/qwen2.5-0.5b");
  }
  EXPECT_EQ(ModelResourceName("", "/").value(), "models/default");
}

TEST(ModelResourceNameTest, LabelsThatAreNoNameAreRefused) {
  for (const std::string& label :
       {std::string("a/b"), std::string("a b"), std::string("\xC3\xA9"),
        std::string(129, 'a')}) {
    EXPECT_FALSE(ModelResourceName(label, "x.gguf").ok()) << label;
  }
}

}  // namespace
}  // namespace sparseserve
