// Models that were loaded without some of their heads, through the engine's
// door.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/profile/attention_profile.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fed_text.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using testing::ExactOptions;
using testing::ExpectLogitsEqual;
using testing::FedText;
using testing::Feed;
using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::SliceStatus;
using testing::Stream;
using testing::TinyModel;

constexpr int kPrompt = 330;
constexpr int kTokens = kPrompt + 3;  // those after the prompt are decode rows

// Of three KV heads; a head's columns are a block of every stored type.
TinyModel Model(DType dtype = DType::kF32) {
  return {.layers = 4, .heads = 6, .kv_heads = 3, .dtype = dtype};
}

// One layer is whole, one has a gap, one has nothing left.
std::vector<PrunedHeads> Pruned() {
  return {{0, {1}}, {2, {2, 0}}, {3, {0, 1, 2}}};
}
// [layers, KV heads]: 1 where pruned.
const std::vector<int32_t> kPatternOf = {0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1};

std::unique_ptr<Engine> PrunedEngine(const TinyModel& model,
                                     Engine::Options options = ExactOptions()) {
  options.pruned_heads = Pruned();
  return MakeEngine(model, options);
}

AttentionChoice MapOf(const PatternSpec& pattern) {
  return {.map = std::make_shared<const PatternMap>(
              PatternMap::Create({4, 3}, {pattern, PrunedPattern()}, kPatternOf)
                  .value())};
}

void ExpectNear(const std::vector<float>& found,
                const std::vector<float>& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t row = 0; row < found.size(); row += TinyModel::kVocabSize) {
    const auto [low, high] = std::minmax_element(
        wanted.begin() + row, wanted.begin() + row + TinyModel::kVocabSize);
    for (size_t i = row; i < row + TinyModel::kVocabSize; ++i) {
      ASSERT_NEAR(found[i], wanted[i], 1e-5 * (*high - *low)) << "logit " << i;
    }
  }
}

TEST(EnginePrunedHeadsTest, LogitsAreThoseOfHeadsWhoseOutputIsZero) {
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 1);
  const AttentionChoice map = MapOf(DensePattern());
  testing::OracleReport report("pruned", "logits");
  for (const DType dtype :
       {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_1}) {
    SCOPED_TRACE(DTypeName(dtype));
    const TinyModel model = Model(dtype);
    const auto pruned = PrunedEngine(model);
    const FedText found = Feed(*pruned, tokens, kPrompt, nullptr);
    ExpectLogitsEqual(
        found.logits,
        testing::ReferenceLogitsOf(model, tokens, kPrompt,
                                   {DensePattern(), PrunedPattern()},
                                   {kPatternOf.begin(), kPatternOf.end()}),
        &report);
    const auto whole = MakeEngine(model);
    ExpectNear(found.logits, Feed(*whole, tokens, kPrompt, &map).logits);
    EXPECT_EQ(Feed(*pruned, tokens, kPrompt, nullptr, 100).logits,
              found.logits);
    // Nothing is left out of what there is.
    EXPECT_EQ(found.blocks.computed, found.blocks.allowed);
  }
}

TEST(EnginePrunedHeadsTest, PatternsRuleTheHeadsThatAreLeft) {
  const auto whole = MakeEngine(Model());
  const auto pruned = PrunedEngine(Model());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 2);
  const XAttentionPattern choosing = {.threshold = 0.5f, .dense_layers = 1};
  for (const PatternSpec& pattern :
       {PatternSpec(SinkWindowPattern{4, 70}), PatternSpec(choosing),
        PatternSpec(DeltaPattern{SinkWindowPattern{4, 70}, 16}),
        PatternSpec(SkipSoftmaxPattern{DensePattern(), 0.5f}),
        PatternSpec(QuestPattern{.budget_tokens = 192, .dense_layers = 1})}) {
    SCOPED_TRACE(PatternName(pattern));
    const AttentionChoice choice = {pattern};
    const AttentionChoice map = MapOf(pattern);
    const FedText found = Feed(*pruned, tokens, kPrompt, &choice);
    const FedText wanted = Feed(*whole, tokens, kPrompt, &map);
    ExpectNear(found.logits, wanted.logits);
    EXPECT_LT(found.blocks.allowed, wanted.blocks.allowed);
    // A map may name heads that are not there.
    EXPECT_EQ(Feed(*pruned, tokens, kPrompt, &map).logits, found.logits);
  }
}

TEST(EnginePrunedHeadsTest, KeptChoicesAreThoseOfTheirHeads) {
  const auto whole = MakeEngine(Model());
  const auto pruned = PrunedEngine(Model());
  const std::vector<TokenId> tokens = RandomTokens(kTokens + 20, 3);
  const PatternSpec reusing =
      QuestPattern{.budget_tokens = 192, .dense_layers = 0, .reuse_steps = 16};
  const AttentionChoice choice = {reusing};
  const AttentionChoice map = MapOf(reusing);
  KeptBlocks kept, kept_by_map;
  ExpectNear(Feed(*pruned, tokens, kPrompt, &choice, 0, &kept).logits,
             Feed(*whole, tokens, kPrompt, &map, 0, &kept_by_map).logits);
}

TEST(EnginePrunedHeadsTest, TheyTakeNoMemory) {
  Engine::Options options = ExactOptions();
  options.kv_cache_bytes = int64_t{64} << 20;
  const auto whole = MakeEngine(Model(), options);
  const auto pruned = PrunedEngine(Model(), options);
  // 6 of 12 heads.
  EXPECT_NEAR(pruned->kv_pages(), 2 * whole->kv_pages(), 2);
  EXPECT_EQ(pruned->info().pruned_heads.size(), 3);
  EXPECT_EQ(pruned->info().pruned_heads[1].layer, 2);
  EXPECT_EQ(pruned->info().pruned_heads[1].kv_heads, (std::vector<int>{0, 2}));
  EXPECT_TRUE(whole->info().pruned_heads.empty());
}

TEST(EnginePrunedHeadsTest, RecallIsOfTheHeadsThatAreLeft) {
  Engine::Options options = ExactOptions();
  options.measure_recall = true;
  const auto engine = PrunedEngine(Model(), options);
  const Stream stream(RandomTokens(kTokens, 4), /*first_page=*/0);
  const AttentionChoice choice = {SinkWindowPattern{4, 70}};
  const std::vector<int32_t> rows = {300};
  std::vector<float> recall(4 * 6, -1.0f), logits;
  StepSlice slice = NextSlice(stream, kPrompt, logits);
  slice.attention = &choice;
  slice.recall_rows = rows;
  slice.recall = absl::MakeSpan(recall);
  ASSERT_EQ(SliceStatus(*engine, slice), absl::OkStatus());
  for (int i = 0; i < 4 * 6; ++i) {
    EXPECT_GT(recall[i], 0) << i;
    EXPECT_EQ(recall[i] == 1, kPatternOf[i / 2] == 1) << i;
  }

  const TinyModel model = Model();
  AttentionProfile profile({.layers = model.layers,
                            .heads = model.heads,
                            .kv_heads = model.kv_heads,
                            .tokens = kPrompt},
                           {.queries = {0}, .top_keys = 1});
  slice.profile = &profile;
  EXPECT_THAT(std::string(SliceStatus(*engine, slice).message()),
              HasSubstr("it has a profile, but the model's heads are pruned"));
  EXPECT_FALSE(engine->info().profiles_attention);
}

TEST(EnginePrunedHeadsTest, WhatTheModelHasNotIsNamed) {
  const auto error = [](const TinyModel& model,
                        std::vector<PrunedHeads> pruned) {
    Engine::Options options = ExactOptions();
    options.pruned_heads = std::move(pruned);
    return std::string(
        testing::CreateEngine(model.Build(), options).status().ToString());
  };
  EXPECT_EQ(error(Model(), {{4, {0}}}),
            "INVALID_ARGUMENT: prune_heads: layer is 4, the model has 0 to 3");
  EXPECT_EQ(error(Model(), {{-1, {0}}}),
            "INVALID_ARGUMENT: prune_heads: layer is -1, the model has 0 to 3");
  EXPECT_EQ(error(Model(), {{2, {0, 3}}}),
            "INVALID_ARGUMENT: prune_heads: KV head of layer 2 is 3, the model "
            "has 0 to 2");
  const std::vector<int> all = {0, 1, 2};
  EXPECT_EQ(error(Model(), {{0, all}, {1, all}, {2, all}, {3, all}}),
            "INVALID_ARGUMENT: prune_heads: all 3 KV heads of all 4 layers, "
            "must leave one");
  // Heads of 16 columns, in blocks of 32.
  const TinyModel narrow = {.heads = 6, .kv_heads = 6, .dtype = DType::kQ8_0};
  EXPECT_EQ(error(narrow, {{1, {2}}}),
            "UNIMPLEMENTED: tensor blk.1.attn_output.weight: prune_heads keeps "
            "columns 48 to 95 of Q8_0, whose blocks of 32 columns cannot be "
            "cut");
  EXPECT_EQ(error(narrow, {{1, {2, 3}}}), "OK");
}

}  // namespace
}  // namespace sparseserve
