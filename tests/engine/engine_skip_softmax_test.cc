// Patterns of whose blocks negligible ones are left out, through the engine's
// door.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "engine/pattern/every_pattern.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fed_text.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::Stream;
using testing::TinyModel;

constexpr int kPrompt = 330;
constexpr int kTokens = kPrompt + 3;  // those after the prompt are decode rows
constexpr int kVocab = TinyModel::kVocabSize;

using Outcome = testing::FedText;

Outcome Feed(Engine& engine, const std::vector<TokenId>& tokens,
             const AttentionChoice& choice, int chunk = kPrompt) {
  return testing::Feed(engine, tokens, kPrompt, &choice, chunk);
}

// Heads whose weights are peaked, and a text of whose tokens neighbours are
// alike: rows that decide together then want the same blocks.
TinyModel Peaked(int layers = 2) {
  return {.layers = layers, .attention_gain = 4};
}

std::vector<TokenId> RunsOfTokens(uint32_t seed) {
  std::vector<TokenId> tokens = RandomTokens(kTokens, seed);
  for (int i = kPageTokens; i < kTokens; ++i) {
    tokens[i] = tokens[i / kPageTokens * kPageTokens];
  }
  return tokens;
}

std::vector<TokenId> Beginning(std::vector<TokenId> tokens, int count) {
  tokens.resize(count);
  return tokens;
}

constexpr float kThreshold = 0.5f;

std::vector<SkipSoftmaxBase> Bases() {
  return {DensePattern(),
          SinkWindowPattern{4, 100},
          TriShapePattern{8, 64, 1},
          XAttentionPattern{.threshold = 0.6f, .dense_layers = 1},
          PeakWeightPattern{.threshold = 0.01f},
          QuestPattern{.budget_tokens = 192,
                       .sink_tokens = 0,
                       .window_tokens = 64,
                       .dense_layers = 0},
          MobaPattern{.block_tokens = 64, .top_k = 3, .dense_layers = 0}};
}

PatternSpec BaseOf(const SkipSoftmaxPattern& pattern) {
  return std::visit([](const auto& base) { return PatternSpec(base); },
                    pattern.base);
}

class SkipSoftmaxOfDtypeTest : public ::testing::TestWithParam<const char*> {
 protected:
  static std::unique_ptr<Engine> Make(bool measure_recall = false) {
    Engine::Options options = testing::ExactOptions();
    options.compute_dtype = GetParam();
    options.measure_recall = measure_recall;
    return MakeEngine(Peaked(), options);
  }
};
INSTANTIATE_TEST_SUITE_P(EngineSkipSoftmaxTest, SkipSoftmaxOfDtypeTest,
                         ::testing::Values("f32", "bf16"),
                         [](const auto& dtype) { return dtype.param; });

TEST_P(SkipSoftmaxOfDtypeTest, WithoutAThresholdItIsItsBaseToTheBit) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RunsOfTokens(1);
  for (const SkipSoftmaxBase& base : Bases()) {
    const SkipSoftmaxPattern pattern = {base, 0};
    SCOPED_TRACE(PatternName(BaseOf(pattern)));
    const Outcome wanted = Feed(*engine, tokens, {BaseOf(pattern)});
    for (const float threshold : {0.0f, 1e-30f}) {
      const Outcome found =
          Feed(*engine, tokens, {SkipSoftmaxPattern{base, threshold}});
      EXPECT_EQ(found.logits, wanted.logits);
      // With a small one rows leave out what they see no key of.
      if (threshold == 0) {
        EXPECT_EQ(found.blocks.computed, wanted.blocks.computed);
      }
      EXPECT_EQ(found.blocks.allowed, wanted.blocks.allowed);
    }
  }
}

// In one layer, where what is left out does not change what comes next, more is
// left out with a larger threshold.
TEST_P(SkipSoftmaxOfDtypeTest, ALargerThresholdLeavesOutMore) {
  Engine::Options options = testing::ExactOptions();
  options.compute_dtype = GetParam();
  const auto engine = MakeEngine(Peaked(/*layers=*/1), options);
  const std::vector<TokenId> tokens = RunsOfTokens(2);
  for (const SkipSoftmaxBase& base : Bases()) {
    SCOPED_TRACE(PatternName(BaseOf({base})));
    int64_t before = Feed(*engine, tokens, {BaseOf({base})}).blocks.computed;
    const int64_t all = before;
    for (const float threshold : {1e-3f, 0.1f, kThreshold, 1.0f}) {
      const int64_t computed =
          Feed(*engine, tokens, {SkipSoftmaxPattern{base, threshold}})
              .blocks.computed;
      EXPECT_LE(computed, before);
      before = computed;
    }
    EXPECT_LT(before, all);
  }
}

TEST_P(SkipSoftmaxOfDtypeTest, ChunksThatEndOnBlockBordersAreTheWholePrompt) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RunsOfTokens(3);
  for (const SkipSoftmaxBase& base : Bases()) {
    const SkipSoftmaxPattern pattern = {base, kThreshold};
    SCOPED_TRACE(PatternName(BaseOf(pattern)));
    const Outcome whole = Feed(*engine, tokens, {pattern});
    EXPECT_NE(whole.logits, Feed(*engine, tokens, {BaseOf(pattern)}).logits);
    for (const int chunk : {64, 192}) {
      const Outcome chunks = Feed(*engine, tokens, {pattern}, chunk);
      ASSERT_EQ(chunks.logits, whole.logits);
    }
  }
}

TEST_P(SkipSoftmaxOfDtypeTest, ASuffixChangesNoRowBeforeItsBlock) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RunsOfTokens(4);
  constexpr int kBlock = 128;
  std::vector<TokenId> edited = tokens;
  for (int i = kBlock + 20; i < kTokens; ++i) edited[i] = (edited[i] + 7) % 256;
  for (const SkipSoftmaxBase& base : Bases()) {
    const SkipSoftmaxPattern pattern = {base, kThreshold};
    SCOPED_TRACE(PatternName(BaseOf(pattern)));
    std::vector<float> before = Feed(*engine, tokens, {pattern}).logits;
    std::vector<float> after = Feed(*engine, edited, {pattern}).logits;
    before.resize(kBlock * kVocab);
    after.resize(kBlock * kVocab);
    ASSERT_EQ(before, after);
  }
}

// Neither neighbours nor samples of recall change a bit of a slice, nor what is
// counted; recall is of what is kept.
TEST_P(SkipSoftmaxOfDtypeTest, RowsAreTheSameBesideOthersAndMeasured) {
  const auto engine = Make(/*measure_recall=*/true);
  const AttentionChoice choice = {SkipSoftmaxPattern{DensePattern(), 1}};
  const AttentionChoice other = {
      SkipSoftmaxPattern{DensePattern(), kThreshold}};
  const Stream stream(Beginning(RunsOfTokens(5), 250), /*first_page=*/0);
  std::vector<float> alone, beside, other_logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 250, alone));
  plan.slices[0].attention = &choice;
  const StepResult expected = engine->Step(plan).value();
  EXPECT_LT(expected.slices[0].blocks.computed,
            expected.slices[0].blocks.allowed);

  const Stream neighbour(Beginning(RunsOfTokens(6), 200), /*first_page=*/8);
  plan.slices = {NextSlice(neighbour, 200, other_logits),
                 NextSlice(stream, 250, beside)};
  plan.slices[0].attention = &other;
  plan.slices[1].attention = &choice;
  const std::vector<int32_t> rows = {10, 128, 249};
  const size_t width = 2 * 4;  // layers, heads
  std::vector<float> recall(rows.size() * width, -1.0f);
  plan.slices[1].recall_rows = rows;
  plan.slices[1].recall = absl::MakeSpan(recall);
  const StepResult result = engine->Step(plan).value();
  EXPECT_EQ(beside, alone);
  EXPECT_EQ(result.slices[1].blocks.computed,
            expected.slices[0].blocks.computed);
  // The first block's rows have nothing to leave out. Any other row keeps what
  // has its greatest score.
  for (size_t i = 0; i < recall.size(); ++i) {
    EXPECT_LE(recall[i], 1.01f);
    EXPECT_GT(recall[i], i < width ? 0.99f : 0.99f / 251);
  }
  EXPECT_LT(*std::min_element(recall.begin(), recall.end()), 0.99f);
}

TEST(EngineSkipSoftmaxTest, HeadsOfAMapSkipApart) {
  const auto engine = MakeEngine(Peaked(/*layers=*/1));
  const std::vector<TokenId> tokens = RunsOfTokens(7);
  const SkipSoftmaxPattern skipping = {DensePattern(), 1};
  const auto computed = [&](const std::vector<int32_t>& pattern_of) {
    const AttentionChoice choice = {
        .map = std::make_shared<const PatternMap>(
            PatternMap::Create({1, 2}, {DensePattern(), skipping}, pattern_of)
                .value())};
    return Feed(*engine, tokens, choice).blocks.computed;
  };
  const int64_t all = computed({0, 0});
  const int64_t first = computed({1, 0}), second = computed({0, 1});
  EXPECT_LT(first, all);
  EXPECT_LT(second, all);
  // Shares of blocks are rounded for each slice, of the prompt and three rows.
  EXPECT_NEAR(all - computed({1, 1}), 2 * all - first - second, 4);
}

TEST(EngineSkipSoftmaxTest, BadParametersFailTheirSliceByName) {
  const auto engine = MakeEngine(TinyModel());
  const Stream stream(RandomTokens(4, 8), /*first_page=*/0);
  const struct {
    SkipSoftmaxPattern pattern;
    const char* message;
  } kCases[] = {
      {{DensePattern(), 2}, "skip_softmax: threshold is 2; allowed: 0 to 1"},
      {{XAttentionPattern{.stride = 5}},
       "skip_softmax.xattention: stride is 5"}};
  for (const auto& bad : kCases) {
    const AttentionChoice choice = {bad.pattern};
    std::vector<float> logits;
    StepSlice slice = NextSlice(stream, 4, logits);
    slice.attention = &choice;
    const absl::Status status = testing::SliceStatus(*engine, slice);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
  }
}

}  // namespace
}  // namespace sparseserve
