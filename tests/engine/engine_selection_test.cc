// Patterns that choose blocks by scores, through the engine's door.

#include <memory>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::FloatEq;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::Stream;
using testing::TinyModel;

constexpr int kPromptTokens = 450;
constexpr int kVocab = TinyModel::kVocabSize;

// Attention of random weights is nearly even, so few blocks need a low share.
AttentionChoice Choice(float threshold) {
  return {XAttentionPattern{
      .stride = 8, .threshold = threshold, .dense_layers = 1}};
}

// One of each kind that chooses by scores, whose parameters keep all.
std::vector<AttentionChoice> ChoicesOfAll() {
  return {Choice(1.0f),
          {VerticalSlashPattern{.columns = kPromptTokens, .dense_layers = 1}},
          {VerticalSlashPattern{.diagonals = kPromptTokens, .dense_layers = 1}},
          {FlexPrefillPattern{.gamma = 1.0f, .dense_layers = 1}},
          {MobaPattern{.block_tokens = 64, .top_k = 8, .dense_layers = 1}},
          {MobaPattern{.block_tokens = 512, .top_k = 1, .dense_layers = 1}},
          {SimilarityGatedPattern{.threshold = 1.0f, .dense_layers = 1}},
          {PeakWeightPattern{.threshold = 1e-30f, .dense_layers = 1}}};
}

// Likewise, but they leave blocks out.
std::vector<AttentionChoice> ChoicesOfSome() {
  return {
      Choice(0.5f),
      {VerticalSlashPattern{.columns = 1, .diagonals = 1, .dense_layers = 1}},
      // By the rows, and by the map.
      {FlexPrefillPattern{
          .gamma = 0.2f, .tau = 0, .min_budget_tokens = 0, .dense_layers = 1}},
      {FlexPrefillPattern{
          .gamma = 0.3f, .tau = 10, .min_budget_tokens = 0, .dense_layers = 1}},
      {MobaPattern{.block_tokens = 128, .top_k = 1, .dense_layers = 1}},
      {SimilarityGatedPattern{
          .similarity = -1, .threshold = 0.5f, .dense_layers = 1}},
      {PeakWeightPattern{.threshold = 0.25f, .dense_layers = 1}}};
}

struct Outcome {
  absl::Status status;
  std::vector<float> logits;  // [tokens, vocab]
  AttentionBlocks blocks;
};

// Runs `tokens` in chunks.
Outcome Feed(Engine& engine, const std::vector<TokenId>& tokens,
             const AttentionChoice* choice, int chunk = 512) {
  Stream stream(tokens, /*first_page=*/0);
  Outcome outcome;
  while (outcome.status.ok() && stream.done < static_cast<int>(tokens.size())) {
    const int count =
        std::min(chunk, static_cast<int>(tokens.size()) - stream.done);
    std::vector<float> logits;
    StepPlan plan;
    plan.slices.push_back(NextSlice(stream, count, logits));
    plan.slices[0].attention = choice;
    const StepResult result = engine.Step(plan).value();
    outcome.status = result.slices[0].status;
    outcome.blocks.computed += result.slices[0].blocks.computed;
    outcome.blocks.allowed += result.slices[0].blocks.allowed;
    outcome.logits.insert(outcome.logits.end(), logits.begin(), logits.end());
    stream.done += count;
  }
  return outcome;
}

std::vector<float> Rows(const std::vector<float>& logits, int begin, int end) {
  return std::vector<float>(logits.begin() + begin * kVocab,
                            logits.begin() + end * kVocab);
}

TEST(EngineSelectionTest, ParametersThatKeepAllAreDenseToTheBit) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 1);
  const Outcome dense = Feed(*engine, tokens, nullptr);
  for (const AttentionChoice& choice : ChoicesOfAll()) {
    SCOPED_TRACE(PatternName(choice.pattern));
    const Outcome chosen = Feed(*engine, tokens, &choice);
    EXPECT_EQ(chosen.logits, dense.logits);
    EXPECT_EQ(chosen.blocks.computed, chosen.blocks.allowed);
  }
}

TEST(EngineSelectionTest, ParametersThatKeepSomeLeaveBlocksOut) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 1);
  const Outcome dense = Feed(*engine, tokens, nullptr);
  for (const AttentionChoice& choice : ChoicesOfSome()) {
    SCOPED_TRACE(PatternName(choice.pattern));
    const Outcome chosen = Feed(*engine, tokens, &choice);
    ASSERT_EQ(chosen.status, absl::OkStatus());
    EXPECT_LT(chosen.blocks.computed, dense.blocks.computed);
    // Layer 0 of two is dense; layer 1 has block 0 and its own at least.
    EXPECT_GT(chosen.blocks.computed, dense.blocks.computed / 2);
    EXPECT_NE(chosen.logits, dense.logits);
  }
}

TEST(EngineSelectionTest, LowerThresholdsLeaveBlocksOut) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 1);
  const Outcome dense = Feed(*engine, tokens, nullptr);
  int64_t before = dense.blocks.computed;
  EXPECT_EQ(before, dense.blocks.allowed);
  for (const float threshold : {0.75f, 0.55f, 0.35f}) {
    const AttentionChoice choice = Choice(threshold);
    const Outcome chosen = Feed(*engine, tokens, &choice);
    ASSERT_EQ(chosen.status, absl::OkStatus());
    EXPECT_EQ(chosen.blocks.allowed, dense.blocks.allowed);
    EXPECT_LT(chosen.blocks.computed, before);
    EXPECT_NE(chosen.logits, dense.logits);
    before = chosen.blocks.computed;
  }
  // Layer 0 of two is dense; layer 1 has block 0 and its own at least.
  EXPECT_GT(before, dense.blocks.allowed / 2);
}

// Of rows that are exact, and of those that some machines multiply on tiles.
class SelectionOfDtypeTest : public ::testing::TestWithParam<const char*> {
 protected:
  static std::unique_ptr<Engine> Make() {
    Engine::Options options = testing::ExactOptions();
    options.compute_dtype = GetParam();
    return MakeEngine(TinyModel(), options);
  }
};
INSTANTIATE_TEST_SUITE_P(EngineSelectionTest, SelectionOfDtypeTest,
                         ::testing::Values("f32", "bf16"),
                         [](const auto& dtype) { return dtype.param; });

TEST_P(SelectionOfDtypeTest, ChunksThatEndOnBlockBordersAreTheWholePrompt) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 2);
  for (const AttentionChoice& choice : ChoicesOfSome()) {
    if (!TraitsOf(choice).is_selection_causal) continue;
    SCOPED_TRACE(PatternName(choice.pattern));
    const Outcome whole = Feed(*engine, tokens, &choice);
    for (const int chunk : {64, 192}) {
      EXPECT_EQ(Feed(*engine, tokens, &choice, chunk).logits, whole.logits);
    }
  }
}

TEST(EngineSelectionTest, PromptsThatTheirEndChoosesForMustComeWhole) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(200, 2);
  for (const AttentionChoice& choice : ChoicesOfSome()) {
    SCOPED_TRACE(PatternName(choice.pattern));
    const bool is_causal = TraitsOf(choice).is_selection_causal;
    const Outcome later = Feed(*engine, tokens, &choice, 128);
    EXPECT_EQ(later.status.ok(), is_causal);
    if (!is_causal) {
      EXPECT_THAT(std::string(later.status.message()),
                  HasSubstr("positions 128 to 199 of 200"));
    }
    Stream stream(tokens, /*first_page=*/0);
    std::vector<float> logits;
    StepSlice slice = NextSlice(stream, 128, logits);
    slice.attention = &choice;
    slice.prompt = tokens;
    const absl::Status first = testing::SliceStatus(*engine, slice);
    EXPECT_EQ(first.ok(), is_causal);
    if (!is_causal) {
      EXPECT_THAT(std::string(first.message()),
                  HasSubstr("positions 0 to 127 of 200"));
    }
    // Output is not the prompt's.
    Feed(*engine, tokens, nullptr);
    stream.done = 150;
    slice = NextSlice(stream, 1, logits);
    slice.phase = Phase::kDecode;
    slice.attention = &choice;
    EXPECT_EQ(testing::SliceStatus(*engine, slice), absl::OkStatus());
  }
}

// Of the others a suffix does change earlier rows: that is why they are not
// cut.
TEST_P(SelectionOfDtypeTest,
       ASuffixChangesNoRowBeforeItsBlockIfThePatternSaysSo) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 3);
  std::vector<TokenId> edited = tokens;
  for (size_t i = 330; i < edited.size(); ++i) {
    edited[i] = (edited[i] + 7) % 256;
  }
  for (const AttentionChoice& choice :
       {ChoicesOfSome()[0], ChoicesOfSome()[5], ChoicesOfSome().back(),
        AttentionChoice{MobaPattern{64, 2, 1}},
        AttentionChoice{VerticalSlashPattern{
            .columns = 36, .diagonals = 1, .dense_layers = 1}}}) {
    SCOPED_TRACE(PatternName(choice.pattern));
    const Outcome before = Feed(*engine, tokens, &choice);
    const Outcome after = Feed(*engine, edited, &choice);
    EXPECT_EQ(Rows(after.logits, 0, 320) == Rows(before.logits, 0, 320),
              TraitsOf(choice).is_selection_causal);
    EXPECT_NE(Rows(after.logits, 330, 331), Rows(before.logits, 330, 331));
  }
}

TEST(EngineSelectionTest, SliceIsTheSameBesideADenseOne) {
  const auto engine = MakeEngine(TinyModel());
  const AttentionChoice choice = Choice(0.4f);
  const std::vector<TokenId> tokens = RandomTokens(250, 4);
  const std::vector<TokenId> others = RandomTokens(250, 5);
  const Outcome alone = Feed(*engine, tokens, &choice);
  const Outcome dense_alone = Feed(*engine, others, nullptr);
  Stream sparse(tokens, /*first_page=*/0);
  Stream dense(others, /*first_page=*/8);
  std::vector<float> logits, dense_logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(dense, 250, dense_logits));
  plan.slices.push_back(NextSlice(sparse, 250, logits));
  plan.slices[1].attention = &choice;
  const StepResult result = engine->Step(plan).value();
  EXPECT_EQ(logits, alone.logits);
  EXPECT_EQ(dense_logits, dense_alone.logits);
  EXPECT_EQ(result.slices[1].blocks.computed, alone.blocks.computed);
  EXPECT_LT(alone.blocks.computed, alone.blocks.allowed);
  EXPECT_EQ(result.slices[0].blocks.computed, dense_alone.blocks.computed);
}

TEST(EngineSelectionTest, LastBlockOfAPromptIsDense) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 6);
  SamplingParams sampling;
  sampling.temperature = 0;
  std::vector<int64_t> computed;
  for (const bool is_dense : {false, true}) {
    AttentionChoice choice = Choice(0.2f);
    std::get<XAttentionPattern>(choice.pattern).is_last_block_dense = is_dense;
    Feed(*engine, std::vector<TokenId>(tokens.begin(), tokens.begin() + 448),
         nullptr);
    Stream stream(tokens, /*first_page=*/0);
    stream.done = 448;
    std::vector<float> logits;
    StepPlan plan;
    plan.slices.push_back(NextSlice(stream, 2, logits));
    plan.slices[0].attention = &choice;
    plan.slices[0].wants_token = true;
    plan.slices[0].sampling = &sampling;
    const SliceResult slice = engine->Step(plan).value().slices[0];
    ASSERT_EQ(slice.status, absl::OkStatus());
    EXPECT_EQ(slice.blocks.allowed, 2 * 2 * 8);
    computed.push_back(slice.blocks.computed);
  }
  EXPECT_LT(computed[0], 2 * 2 * 8);
  EXPECT_EQ(computed[1], 2 * 2 * 8);
}

TEST(EngineSelectionTest, RecallIsOneWhereDenseAndLessWhereBlocksAreLeftOut) {
  Engine::Options options = testing::ExactOptions();
  options.measure_recall = true;
  const auto engine = MakeEngine(TinyModel(), options);
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 7);
  const AttentionChoice choice = Choice(0.5f);
  const std::vector<int32_t> rows = {5, 200, 449};
  constexpr int kHeads = 4;
  std::vector<float> recall(rows.size() * 2 * kHeads, -1.0f);
  Stream stream(tokens, /*first_page=*/0);
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, kPromptTokens, logits));
  plan.slices[0].attention = &choice;
  plan.slices[0].recall_rows = rows;
  plan.slices[0].recall = absl::MakeSpan(recall);
  ASSERT_EQ(engine->Step(plan).value().slices[0].status, absl::OkStatus());
  EXPECT_EQ(logits, Feed(*engine, tokens, &choice).logits);
  const auto of = [&](int sample, int layer) {
    const auto begin = recall.begin() + (sample * 2 + layer) * kHeads;
    return std::vector<float>(begin, begin + kHeads);
  };
  // Row 5 sees one block, and layer 0 is dense.
  for (int sample = 0; sample < 3; ++sample) {
    EXPECT_THAT(of(sample, 0), Each(FloatEq(1)));
  }
  EXPECT_THAT(of(0, 1), Each(FloatEq(1)));
  // Even attention: about the threshold, since scores are of the same queries.
  EXPECT_THAT(of(1, 1), Each(AllOf(Ge(0.35f), Le(0.95f))));
  EXPECT_THAT(of(2, 1), Each(AllOf(Ge(0.35f), Le(0.95f))));
}

// What more parameters let in adds weight to every row, where queries and keys
// are the same: in the first layer that selects.
TEST(EngineSelectionTest, MoreBlocksNeverHaveLessRecall) {
  Engine::Options options = testing::ExactOptions();
  options.measure_recall = true;
  const auto engine = MakeEngine(TinyModel(), options);
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens, 8);
  const std::vector<int32_t> rows = {150, 250, 350, 449};
  constexpr int kHeads = 4;
  const auto recall_of = [&](const PatternSpec& pattern) {
    const AttentionChoice choice = {pattern};
    std::vector<float> recall(rows.size() * 2 * kHeads, -1.0f);
    Stream stream(tokens, /*first_page=*/0);
    std::vector<float> logits;
    StepPlan plan;
    plan.slices.push_back(NextSlice(stream, kPromptTokens, logits));
    plan.slices[0].attention = &choice;
    plan.slices[0].recall_rows = rows;
    plan.slices[0].recall = absl::MakeSpan(recall);
    EXPECT_EQ(engine->Step(plan).value().slices[0].status, absl::OkStatus());
    return recall;
  };
  const std::vector<std::vector<PatternSpec>> kLadders = {
      {VerticalSlashPattern{1, 1, 64, 1}, VerticalSlashPattern{35, 1, 64, 1},
       VerticalSlashPattern{35, 110, 64, 1}},
      {SimilarityGatedPattern{-1, 0.2f, 1}, SimilarityGatedPattern{-1, 0.5f, 1},
       SimilarityGatedPattern{-1, 0.8f, 1}},
      {PeakWeightPattern{8, 4, 0.5f, 1}, PeakWeightPattern{8, 4, 0.2f, 1},
       PeakWeightPattern{8, 4, 0.1f, 1}},
      {FlexPrefillPattern{0.2f, 10, 0, 1}, FlexPrefillPattern{0.5f, 10, 0, 1},
       FlexPrefillPattern{0.8f, 10, 0, 1}}};
  for (const std::vector<PatternSpec>& ladder : kLadders) {
    SCOPED_TRACE(PatternName(ladder[0]));
    std::vector<float> before(rows.size() * 2 * kHeads, 0.0f);
    bool rises = false;
    for (const PatternSpec& pattern : ladder) {
      const std::vector<float> recall = recall_of(pattern);
      for (size_t i = 0; i < recall.size(); ++i) {
        EXPECT_GE(recall[i], before[i] - 1e-6f);
        rises |= before[i] > 0 && recall[i] > before[i] + 1e-3f;
      }
      before = recall;
    }
    EXPECT_TRUE(rises);
  }
}

TEST(EngineSelectionTest, BadChoicesFailTheirSliceByName) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(4, 1);
  const struct {
    PatternSpec pattern;
    const char* message;
  } kCases[] = {
      {XAttentionPattern{.stride = 12}, "xattention: stride is 12; allowed: 2"},
      {XAttentionPattern{.stride = 128}, "xattention: stride is 128"},
      {XAttentionPattern{.threshold = 0}, "xattention: threshold is 0"},
      {XAttentionPattern{.threshold = 1.5f}, "xattention: threshold is 1.5"},
      {XAttentionPattern{.dense_layers = -1}, "xattention: dense_layers is -1"},
      {SlidingWindowPattern{.window_tokens = 0}, "window_tokens is 0"},
      {VerticalSlashPattern{.rows = 65}, "vertical_slash: rows is 65"},
      {FlexPrefillPattern{.gamma = 0}, "flex_prefill: gamma is 0"},
      {SimilarityGatedPattern{.similarity = 2},
       "similarity_gated: similarity is 2"},
      {MobaPattern{.block_tokens = 96}, "moba: block_tokens is 96"},
  };
  for (const auto& bad : kCases) {
    const AttentionChoice choice = {bad.pattern};
    const Outcome outcome = Feed(*engine, tokens, &choice);
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr(bad.message));
  }
}

TEST(EngineSelectionTest, RecallOfWhatCannotBeMeasuredFailsItsSlice) {
  Engine::Options options = testing::ExactOptions();
  std::vector<float> recall(8);
  for (const bool measure : {false, true}) {
    options.measure_recall = measure;
    const auto engine = MakeEngine(TinyModel(), options);
    const struct {
      std::vector<int32_t> rows;
      size_t room;
      const char* message;
    } kCases[] = {{{3}, 8, measure ? "" : "measure_recall"},
                  {{4}, 8, measure ? "recall row 4" : "measure_recall"},
                  {{-1}, 8, measure ? "recall row -1" : "measure_recall"},
                  {{3}, 7, measure ? "room for 7" : "measure_recall"},
                  {{}, 8, "room for 8"}};
    for (const auto& bad : kCases) {
      Stream stream(RandomTokens(4, 1), /*first_page=*/0);
      std::vector<float> logits;
      StepSlice slice = NextSlice(stream, 4, logits);
      slice.recall_rows = bad.rows;
      slice.recall = absl::MakeSpan(recall).first(bad.room);
      const absl::Status status = testing::SliceStatus(*engine, slice);
      if (*bad.message == '\0') {
        EXPECT_EQ(status, absl::OkStatus());
      } else {
        EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
      }
    }
  }
}

}  // namespace
}  // namespace sparseserve
