#include "server/calibration/text_runner.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/calibration/candidates.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::TinyModel;

constexpr int kVocab = TinyModel::kVocabSize;
constexpr int kTokens = 320;

// Weights of attention that differ, so that leaving some out matters.
std::unique_ptr<Engine> PeakedEngine(int64_t kv_cache_bytes = 64 << 20) {
  TinyModel model;
  model.attention_gain = 6;
  Engine::Options options = testing::ExactOptions();
  options.measure_recall = true;
  options.kv_cache_bytes = kv_cache_bytes;
  return testing::MakeEngine(model, options);
}

const AttentionChoice kNear = {.pattern = TriShapePattern{.sink_tokens = 64,
                                                          .window_tokens = 64,
                                                          .dense_blocks = 0}};

class TextRunnerTest : public ::testing::Test {
 protected:
  // Bands of 65 to 192 and 193 to 320 tokens; of each the first block counts.
  std::unique_ptr<TextRunner> Start() {
    TextRunner::Options options;
    options.bands = *BandsBetween({64, 192, 320}, 512);
    options.counted = {{1}, {3}};
    options.groups = GroupLayers(2, 2);
    options.chunk_tokens = 128;
    auto runner = TextRunner::Start(*engine_, tokens_, options);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return std::move(runner).value();
  }

  // All rows' logits by a single step.
  std::vector<float> Logits(const AttentionChoice* choice) {
    std::vector<float> logits(kTokens * kVocab);
    std::vector<PageId> pages = {0, 1, 2, 3, 4};
    StepSlice slice;
    slice.tokens = tokens_;
    slice.pages = pages;
    slice.attention = choice;
    slice.all_logits = absl::MakeSpan(logits);
    EXPECT_TRUE(testing::SliceStatus(*engine_, slice).ok());
    return logits;
  }

  const std::unique_ptr<Engine> engine_ = PeakedEngine();
  const std::vector<TokenId> tokens_ = testing::RandomTokens(kTokens, 5);
};

TEST_F(TextRunnerTest, DenseIsNoDivergenceFromDense) {
  const auto measured = Start()->RunPrompt({.pattern = DensePattern()});
  ASSERT_TRUE(measured.ok()) << measured.status();
  ASSERT_EQ(measured->size(), 2);
  for (const BandMeasurement& band : *measured) {
    ASSERT_EQ(band.divergences.size(), 64);
    for (const float divergence : band.divergences) EXPECT_EQ(divergence, 0);
    EXPECT_EQ(band.same_top, 64);
    EXPECT_EQ(band.targets, 64);
    EXPECT_EQ(band.density, 1);
    EXPECT_NEAR(band.log_probability, band.dense_log_probability, 1e-9);
    ASSERT_EQ(band.recalls.size(), 2);
    for (const auto& group : band.recalls) {
      ASSERT_EQ(group.size(), 8);
      EXPECT_EQ(*std::min_element(group.begin(), group.end()), 1);
    }
  }
}

// Beside steps that are cut elsewhere.
TEST_F(TextRunnerTest, APromptsRowsAreComparedWithTheDenseOnes) {
  const auto measured = Start()->RunPrompt(kNear);
  ASSERT_TRUE(measured.ok()) << measured.status();
  const std::vector<float> dense = Logits(nullptr);
  const std::vector<float> sparse = Logits(&kNear);
  for (int band = 0; band < 2; ++band) {
    const int first = band == 0 ? 64 : 192;
    int same_top = 0;
    for (int row = 0; row < 64; ++row) {
      const auto row_of = [&](const std::vector<float>& logits) {
        return absl::MakeConstSpan(logits).subspan((first + row) * kVocab,
                                                   kVocab);
      };
      const RowDivergence expected =
          DenseDistribution(row_of(dense)).Compare(row_of(sparse));
      EXPECT_NEAR((*measured)[band].divergences[row], expected.divergence,
                  1e-4 + 1e-3 * expected.divergence)
          << band << " " << row;
      same_top += expected.is_top_same;
    }
    EXPECT_NEAR((*measured)[band].same_top, same_top, 1);
  }
  // Rows see the first block, and 64 keys up to their own: the second block's
  // all, the fourth's in 3 blocks of 4.
  EXPECT_NEAR(*std::max_element((*measured)[0].divergences.begin(),
                                (*measured)[0].divergences.end()),
              0, 1e-6);
  EXPECT_GT(*std::max_element((*measured)[1].divergences.begin(),
                              (*measured)[1].divergences.end()),
            1e-3);
  EXPECT_EQ((*measured)[0].density, 1);
  EXPECT_NEAR((*measured)[1].density, 9.0 / 10, 1e-9);
  EXPECT_LT(*std::min_element((*measured)[1].recalls[0].begin(),
                              (*measured)[1].recalls[0].end()),
            0.99);
}

TEST_F(TextRunnerTest, RecallIsOfHeadsThatFollowAPattern) {
  const std::vector<HeadLevel> levels = {{DensePattern()}, {kNear.pattern}};
  const auto runner = Start();
  const auto all = runner->RunPrompt(kNear);
  const auto none_of_first =
      runner->RunPrompt(MapOf(levels, {0, 0, 1, 1}, engine_->info()));
  ASSERT_TRUE(all.ok() && none_of_first.ok());
  for (const float recall : (*none_of_first)[1].recalls[0]) {
    EXPECT_EQ(recall, 1);
  }
  const std::vector<float>& second = (*none_of_first)[1].recalls[1];
  EXPECT_LT(*std::max_element(second.begin(), second.end()), 1);
  EXPECT_LT((*all)[1].recalls[0][0], 1);
}

TEST_F(TextRunnerTest, OutputThatSeesAllIsAsDense) {
  const std::vector<AttentionChoice> choices = {
      {.pattern = QuestPattern{.budget_tokens = 4096, .dense_layers = 0}},
      {.pattern = QuestPattern{.budget_tokens = 64,
                               .sink_tokens = 0,
                               .window_tokens = 1,
                               .dense_layers = 0}}};
  const auto runner = Start();
  const auto measured = runner->RunOutput(choices);
  ASSERT_TRUE(measured.ok()) << measured.status();
  ASSERT_EQ(measured->size(), 2);
  for (int band = 0; band < 2; ++band) {
    const BandMeasurement& all = (*measured)[0][band];
    ASSERT_EQ(all.divergences.size(), 64);
    EXPECT_LT(*std::max_element(all.divergences.begin(), all.divergences.end()),
              1e-5);
    EXPECT_EQ(all.density, 1);
    EXPECT_EQ(all.recalls[0].size(), 8);
  }
  // Two blocks at least: its own and the first.
  EXPECT_EQ((*measured)[1][0].density, 1);
  EXPECT_EQ((*measured)[1][1].density, 0.5);
  const BandMeasurement& few = (*measured)[1][1];
  EXPECT_GT(*std::max_element(few.divergences.begin(), few.divergences.end()),
            1e-3);
}

TEST_F(TextRunnerTest, AWindowTriesChoicesBehindADenseBeginning) {
  const std::vector<HeadLevel> levels = {{DensePattern()}, {kNear.pattern}};
  std::vector<AttentionChoice> choices = {
      {.pattern = DensePattern()},
      kNear,
      MapOf(levels, {0, 1, 0, 0}, engine_->info())};
  const std::vector<AttentionChoice> three = choices;
  while (choices.size() < 20) {
    choices.insert(choices.end(), three.begin(), three.end());
  }
  const auto tried =
      Start()->RunWindow(/*first_block=*/3, /*blocks=*/2, choices);
  ASSERT_TRUE(tried.ok()) << tried.status();
  ASSERT_EQ(tried->size(), choices.size());
  for (size_t i = 0; i < choices.size(); i += 3) {
    EXPECT_NEAR((*tried)[i].cost, 1, 1e-9);
    EXPECT_NEAR((*tried)[i].loss, 0, 1e-9);
    // Three blocks of each row, of one head alone in four.
    EXPECT_NEAR((*tried)[i + 1].cost, 6.0 / 9, 1e-9);
    EXPECT_NEAR((*tried)[i + 2].cost, 1 - (3.0 / 9) / 4, 1e-9);
    EXPECT_GT((*tried)[i + 1].loss, 1e-5);
    EXPECT_GT((*tried)[i + 2].loss, 0);
    EXPECT_LT((*tried)[i + 2].loss, (*tried)[i + 1].loss);
  }
}

TEST_F(TextRunnerTest, WhatCannotRunIsNamed) {
  TextRunner::Options options;
  options.bands = *BandsBetween({64, 384}, 512);
  options.counted = {{1}};
  EXPECT_THAT(
      std::string(
          TextRunner::Start(*engine_, tokens_, options).status().message()),
      HasSubstr("320 tokens"));
  // One context and no more.
  const auto small = PeakedEngine(266'240);
  options.bands = *BandsBetween({64, 320}, 512);
  const auto runner = TextRunner::Start(*small, tokens_, options);
  EXPECT_TRUE(absl::IsResourceExhausted(runner.status()));
  EXPECT_THAT(std::string(runner.status().message()),
              HasSubstr("8 pages of keys and values, must have 18"));
}

}  // namespace
}  // namespace sparseserve
