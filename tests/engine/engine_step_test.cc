#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/pattern/attention_choice.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using testing::ExactOptions;
using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::RunAlone;
using testing::SliceStatus;
using testing::Stream;
using testing::TinyModel;

constexpr int kVocab = TinyModel::kVocabSize;

TEST(EngineStepTest, RedoingASliceGivesTheSame) {
  const auto engine = MakeEngine({});
  Stream stream(RandomTokens(100, 1), 0);
  const std::vector<float> first = RunAlone(*engine, stream, 100);
  stream.done = 0;
  EXPECT_EQ(RunAlone(*engine, stream, 100), first);
}

TEST(EngineStepTest, DecodeSlicesMayStandAnywhereInThePlan) {
  const auto engine = MakeEngine({});
  Stream decoding(RandomTokens(10, 1), 0);
  RunAlone(*engine, decoding, 9);
  Stream same = decoding;
  const std::vector<float> wanted = RunAlone(*engine, same, 1);

  Stream prompt(RandomTokens(5, 2), 8);
  std::vector<float> prompt_logits, found;
  StepPlan plan;
  plan.slices.push_back(NextSlice(prompt, 5, prompt_logits));
  plan.slices.push_back(NextSlice(decoding, 1, found));
  ASSERT_TRUE(engine->Step(plan).ok());
  EXPECT_EQ(found, wanted);
}

TEST(EngineStepTest, SamplesFromTheLastRowOnly) {
  const auto engine = MakeEngine({});
  Stream stream(RandomTokens(20, 1), 0);
  SamplingParams greedy;
  greedy.temperature = 0;
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 20, logits));
  plan.slices[0].wants_token = true;
  plan.slices[0].sampling = &greedy;
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto last = logits.end() - kVocab;
  EXPECT_EQ(result->slices[0].token,
            std::max_element(last, logits.end()) - last);
}

TEST(EngineStepTest, AllLogitsOfMoreRowsThanSlicesComeInChunks) {
  Engine::Options options = ExactOptions();
  options.max_step_slices = 3;
  const auto few = MakeEngine({}, options);
  const auto many = MakeEngine({});
  Stream a(RandomTokens(20, 1), 0);
  Stream b = a;
  EXPECT_EQ(RunAlone(*few, a, 20), RunAlone(*many, b, 20));
}

TEST(EngineStepTest, CountsBlocksOverLayersHeadsAndQueryBlocks) {
  const auto engine = MakeEngine({.layers = 3});
  Stream stream(RandomTokens(131, 1), 0);
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 130, logits));
  auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok());
  // Query blocks 0, 1 and 2 see 1, 2 and 3 blocks; 3 layers, 2 KV heads.
  EXPECT_EQ(result->slices[0].blocks.allowed, (1 + 2 + 3) * 3 * 2);
  EXPECT_EQ(result->slices[0].blocks.computed, (1 + 2 + 3) * 3 * 2);

  stream.done = 130;
  plan.slices[0] = NextSlice(stream, 1, logits);
  result = engine->Step(plan);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->slices[0].blocks.allowed, 3 * 3 * 2);
}

TEST(EngineStepTest, StageTimesComeFromTheStopwatchAndAddUp) {
  Engine::Options options = ExactOptions();
  double ticks = 0;
  options.stopwatch = [&ticks] { return ticks += 1; };
  const auto engine = MakeEngine({}, options);
  Stream stream(RandomTokens(5, 1), 0);
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 5, logits));
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok());
  const StepTimes& times = result->times;
  EXPECT_EQ(times.attention, 2);  // one tick a layer
  EXPECT_GT(times.embed, 0);
  EXPECT_GT(times.mlp, 0);
  EXPECT_GT(times.sampling, 0);
  // `total` ends at a reading of its own.
  EXPECT_EQ(times.total,
            times.embed + times.attention + times.mlp + times.sampling + 1);
  EXPECT_EQ(times.selection, 0);  // nothing selects
}

TEST(EngineStepTest, SelectionIsTimedApartInLayersThatSelect) {
  Engine::Options options = ExactOptions();
  double ticks = 0;
  options.stopwatch = [&ticks] { return ticks += 1; };
  const auto engine = MakeEngine({}, options);
  Stream stream(RandomTokens(200, 1), 0);
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 200, logits));
  const AttentionChoice choice = {XAttentionPattern{.dense_layers = 1}};
  plan.slices[0].attention = &choice;
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok());
  const StepTimes& times = result->times;
  EXPECT_EQ(times.selection, 1);
  EXPECT_EQ(times.attention, 3);  // in its layer before and behind
  EXPECT_EQ(times.total, times.embed + times.selection + times.attention +
                             times.mlp + times.sampling + 1);
}

TEST(EngineStepTest, BadSlicesAreNamedAndLeftOut) {
  const auto engine = MakeEngine({.context_tokens = 128});
  const std::vector<TokenId> tokens = RandomTokens(10, 1);
  const std::vector<TokenId> above = {0, kVocab};
  const std::vector<TokenId> below = {-1};
  const std::vector<PageId> pages = {0, 1};
  const std::vector<PageId> page_above = {0, engine->kv_pages()};
  const std::vector<PageId> page_below = {-1};
  std::vector<float> short_logits(kVocab);
  StepSlice good;
  good.tokens = tokens;
  good.pages = pages;

  struct Row {
    const char* message;
    std::function<void(StepSlice&)> spoil;
  };
  const std::vector<Row> table = {
      {"no tokens", [&](StepSlice& s) { s.tokens = {}; }},
      {"token 258", [&](StepSlice& s) { s.tokens = above; }},
      {"token -1", [&](StepSlice& s) { s.tokens = below; }},
      {"positions -1", [&](StepSlice& s) { s.first_position = -1; }},
      {"0 to 127", [&](StepSlice& s) { s.first_position = 119; }},
      {"0 to 127",
       [&](StepSlice& s) {
         s.first_position = std::numeric_limits<int>::max();
       }},
      {"1 pages do not cover position 69",
       [&](StepSlice& s) {
         s.pages = absl::MakeConstSpan(pages).first(1);
         s.first_position = 60;
       }},
      {"pages do not cover", [&](StepSlice& s) { s.pages = {}; }},
      {"page", [&](StepSlice& s) { s.pages = page_above; }},
      {"page -1", [&](StepSlice& s) { s.pages = page_below; }},
      {"sampling", [&](StepSlice& s) { s.wants_token = true; }},
      {"logits",
       [&](StepSlice& s) { s.all_logits = absl::MakeSpan(short_logits); }},
  };
  for (const Row& row : table) {
    StepSlice slice = good;
    row.spoil(slice);
    const absl::Status status = SliceStatus(*engine, slice);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << row.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message));
  }
  EXPECT_TRUE(SliceStatus(*engine, good).ok());
}

TEST(EngineStepTest, BadSliceLeavesTheOthersStanding) {
  const auto engine = MakeEngine({});
  Stream stream(RandomTokens(9, 1), 0);
  Stream again(stream.tokens, 8);
  const std::vector<float> wanted = RunAlone(*engine, stream, 9);

  StepSlice bad;
  bad.sequence = 77;
  std::vector<float> logits;
  const auto result = engine->Step({{bad, NextSlice(again, 9, logits)}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(std::string(result->slices[0].status.message()), HasSubstr("77"));
  EXPECT_TRUE(result->slices[1].status.ok());
  EXPECT_EQ(logits, wanted);
}

TEST(EngineStepTest, PlanBeyondTheLimitsIsAnErrorOfTheWhole) {
  Engine::Options options = ExactOptions();
  options.max_step_tokens = 16;
  options.max_step_slices = 2;
  const auto engine = MakeEngine({}, options);
  std::vector<float> logits;
  Stream stream(RandomTokens(17, 1), 0);
  const auto long_plan = engine->Step({{NextSlice(stream, 17, logits)}});
  EXPECT_TRUE(absl::IsInvalidArgument(long_plan.status()));
  EXPECT_THAT(std::string(long_plan.status().message()),
              HasSubstr("max_step_tokens"));

  std::vector<Stream> streams;
  std::vector<std::vector<float>> each(3);
  StepPlan wide;
  for (int i = 0; i < 3; ++i) streams.push_back(Stream({1}, 8 * i));
  for (int i = 0; i < 3; ++i) {
    wide.slices.push_back(NextSlice(streams[i], 1, each[i]));
  }
  const auto wide_plan = engine->Step(wide);
  EXPECT_TRUE(absl::IsInvalidArgument(wide_plan.status()));
  EXPECT_THAT(std::string(wide_plan.status().message()),
              HasSubstr("max_step_slices"));
  EXPECT_TRUE(engine->Step({{NextSlice(stream, 16, logits)}}).ok());
}

TEST(EngineStepTest, EmptyPlanIsAnEmptyResult) {
  const auto result = MakeEngine({})->Step({});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->slices.empty());
}

// A model whose token 255 has an embedding of NaN.
TinyModel PoisonedModel() {
  TinyModel model;
  model.tied = false;  // the head has no part in it
  model.poisoned_token = 255;
  return model;
}

class EngineNanTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Engine> MakePoisoned() {
    Engine::Options options = ExactOptions();
    options.compute_dtype = GetParam();
    return MakeEngine(PoisonedModel(), options);
  }
};

TEST_P(EngineNanTest, LogitsThatAreNotFiniteFailTheirSliceAlone) {
  const auto engine = MakePoisoned();
  Stream good({1, 2, 3}, 0);
  Stream poisoned({1, 255, 3}, 8);
  SamplingParams greedy;
  greedy.temperature = 0;
  StepPlan plan;
  std::vector<float> good_logits, poisoned_logits;
  plan.slices.push_back(NextSlice(poisoned, 3, poisoned_logits));
  plan.slices.push_back(NextSlice(good, 3, good_logits));
  for (StepSlice& slice : plan.slices) {
    slice.wants_token = true;
    slice.sampling = &greedy;
  }
  auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(absl::IsInternal(result->slices[0].status));
  EXPECT_TRUE(result->slices[1].status.ok()) << result->slices[1].status;
  EXPECT_GE(result->slices[1].token, 0);

  // Without the rows' logits too: the sampler sees it.
  for (StepSlice& slice : plan.slices) slice.all_logits = {};
  result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(absl::IsInternal(result->slices[0].status));
  EXPECT_TRUE(result->slices[1].status.ok()) << result->slices[1].status;
}

TEST_P(EngineNanTest, WhatAFailedSequenceLeftInItsPagesHarmsNoOther) {
  const auto engine = MakePoisoned();
  const std::vector<TokenId> tokens = RandomTokens(9, 3);
  Stream clean(tokens, 0);
  const std::vector<float> wanted = RunAlone(*engine, clean, 9);

  std::vector<float> logits;
  Stream poisoned(std::vector<TokenId>(70, 255), 8);
  ASSERT_TRUE(
      absl::IsInternal(SliceStatus(*engine, NextSlice(poisoned, 70, logits))));
  // The same pages, shorter: the rest of the page still holds NaN.
  Stream reused(tokens, 8);
  EXPECT_EQ(RunAlone(*engine, reused, 9), wanted);
  Stream longer(std::vector<TokenId>(66, 7), 8);
  ASSERT_TRUE(
      absl::IsInternal(SliceStatus(*engine, NextSlice(poisoned, 70, logits))));
  RunAlone(*engine, longer, 65);
  const std::vector<float> decoded = RunAlone(*engine, longer, 1);
  EXPECT_THAT(decoded, ::testing::Each(::testing::Truly(
                           [](float logit) { return std::isfinite(logit); })));
}

INSTANTIATE_TEST_SUITE_P(ComputeDtypes, EngineNanTest,
                         ::testing::Values("f32", "bf16"),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace sparseserve
