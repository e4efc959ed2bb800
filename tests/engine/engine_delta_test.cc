// Patterns that rows of dense attention correct, through the engine's door.

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "engine/profile/attention_profile.h"
#include "engine/profile/head_measures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fed_text.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using testing::ExpectLogitsEqual;
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

// Attention of random weights is nearly even, so few blocks need a low share.
XAttentionPattern Chosen(float threshold) {
  return {.threshold = threshold, .dense_layers = 0};
}

// Bases that leave keys out and may be cut.
std::vector<DeltaPattern> Corrected() {
  return {{SinkWindowPattern{4, 70}, 64},
          {SinkWindowPattern{0, 30}, 8},
          {TriShapePattern{8, 64, 2}, 16},
          {Chosen(0.4f), 64},
          {SimilarityGatedPattern{
               .similarity = -1, .threshold = 0.5f, .dense_layers = 1},
           32}};
}

// `pattern_of` is [layers, KV heads] of static patterns. In the prompt,
// `corrector` says which row corrects another.
std::vector<std::vector<double>> ReferenceLogits(
    const TinyModel& model, const std::vector<TokenId>& tokens,
    const std::vector<PatternSpec>& patterns,
    const std::vector<int>& pattern_of,
    const std::function<int(int gamma, int row)>& corrector) {
  return testing::ReferenceLogitsOf(
      model, tokens, kPrompt, patterns, pattern_of,
      [&](int layer, int kv_head, int row) {
        const auto* delta = std::get_if<DeltaPattern>(
            &patterns[pattern_of[layer * model.kv_heads + kv_head]]);
        return delta == nullptr || row >= kPrompt
                   ? -1
                   : corrector(delta->gamma, row);
      });
}

int OnTheGrid(int gamma, int row) { return row / gamma * gamma; }

TEST(EngineDeltaTest, EqualsTheReferenceOfTheFormula) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 1);
  testing::OracleReport report("delta", "logits");
  for (const DeltaPattern& pattern :
       {Corrected()[0], Corrected()[1], Corrected()[2]}) {
    SCOPED_TRACE(pattern.gamma);
    ExpectLogitsEqual(
        Feed(*engine, tokens, {pattern}).logits,
        ReferenceLogits(model, tokens, {pattern}, {0, 0, 0, 0}, OnTheGrid),
        &report);
  }
}

TEST(EngineDeltaTest, HeadsOfAMapAreCorrectedApart) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 2);
  const std::vector<PatternSpec> patterns = {
      DeltaPattern{SinkWindowPattern{4, 70}, 32}, SinkWindowPattern{4, 70},
      DensePattern(), DeltaPattern{TriShapePattern{4, 40, 1}, 64}};
  const AttentionChoice choice = {
      .map = std::make_shared<const PatternMap>(
          PatternMap::Create({2, 2}, patterns, {0, 1, 2, 3}).value())};
  ExpectLogitsEqual(
      Feed(*engine, tokens, choice).logits,
      ReferenceLogits(model, tokens, patterns, {0, 1, 2, 3}, OnTheGrid));
}

TEST(EngineDeltaTest, AChunkThatBeginsInABlockCorrectsByItsFirstRow) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 3);
  constexpr int kChunk = 101;
  const DeltaPattern pattern = {SinkWindowPattern{4, 70}, 32};
  ExpectLogitsEqual(Feed(*engine, tokens, {pattern}, kChunk).logits,
                    ReferenceLogits(model, tokens, {pattern}, {0, 0, 0, 0},
                                    [](int gamma, int row) {
                                      return std::max(OnTheGrid(gamma, row),
                                                      OnTheGrid(kChunk, row));
                                    }));
}

// Largest distances of a prompt's logits from a dense run's.
struct GridErrors {
  double on_grid = 0;  // of rows that gamma divides
  double between = 0;
};
GridErrors ErrorsOf(const std::vector<float>& logits,
                    const std::vector<float>& dense, int gamma) {
  GridErrors errors;
  for (int i = 0; i < kPrompt * kVocab; ++i) {
    double& worst = i / kVocab % gamma == 0 ? errors.on_grid : errors.between;
    worst = std::max(worst, std::abs(double{logits[i]} - dense[i]));
  }
  return errors;
}

// Rows on the grid see the first layer as a dense run does, and so have its
// logits where there is no other layer.
TEST(EngineDeltaTest, RowsOnTheGridAreDenseUpToRounding) {
  const auto engine = MakeEngine({.layers = 1});
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 4);
  const std::vector<float> dense =
      Feed(*engine, tokens, {DensePattern()}).logits;
  for (const DeltaBase& base :
       {DeltaBase(Chosen(0.3f)), DeltaBase(VerticalSlashPattern{1, 1, 64, 0}),
        DeltaBase(SinkWindowPattern{1, 20})}) {
    const GridErrors errors =
        ErrorsOf(Feed(*engine, tokens, {DeltaPattern{base, 16}}).logits, dense,
                 /*gamma=*/16);
    EXPECT_LT(errors.on_grid, 1e-5);
    EXPECT_GT(errors.between, 1e-3);
  }
}

PatternSpec Uncorrected(const DeltaPattern& pattern) {
  return std::visit([](const auto& base) { return PatternSpec(base); },
                    pattern.base);
}

TEST(EngineDeltaTest, WithinAWindowOfTheCheckpointDenseIsWhatThatShows) {
  TinyModel model = {.layers = 1};
  model.overrides["llama.attention.sliding_window"] = uint32_t{70};
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 13);
  const std::vector<float> dense =
      Feed(*engine, tokens, {DensePattern()}).logits;
  const GridErrors errors = ErrorsOf(
      Feed(*engine, tokens, {DeltaPattern{SinkWindowPattern{4, 20}, 16}})
          .logits,
      dense, /*gamma=*/16);
  EXPECT_LT(errors.on_grid, 1e-5);
  EXPECT_GT(errors.between, 1e-3);
  // Bases that show as much: there is nothing to correct, and no visit more.
  for (const DeltaBase& base : {DeltaBase(SinkWindowPattern{4, 70}),
                                DeltaBase(SinkWindowPattern{0, 100}),
                                DeltaBase(TriShapePattern{4, 70, 1})}) {
    const Outcome found = Feed(*engine, tokens, {DeltaPattern{base, 16}});
    const Outcome plain = Feed(*engine, tokens, {Uncorrected({base})});
    EXPECT_EQ(found.logits, plain.logits);
    EXPECT_EQ(found.blocks.computed, plain.blocks.computed);
  }
}

// The second attention is of single rows, the first of tiles: that they agree
// where both see all is what leaves dense rows dense.
TEST(EngineDeltaTest, ABaseThatKeepsAllIsDenseToTheBit) {
  for (const char* dtype : {"f32", "bf16"}) {
    Engine::Options options = testing::ExactOptions();
    options.compute_dtype = dtype;
    const auto engine = MakeEngine(TinyModel(), options);
    const std::vector<TokenId> tokens = RandomTokens(kTokens, 5);
    EXPECT_EQ(Feed(*engine, tokens, {DeltaPattern{Chosen(1.0f), 8}}).logits,
              Feed(*engine, tokens, {DensePattern()}).logits);
  }
}

class DeltaOfDtypeTest : public ::testing::TestWithParam<const char*> {
 protected:
  static std::unique_ptr<Engine> Make(bool measure_recall = false) {
    Engine::Options options = testing::ExactOptions();
    options.compute_dtype = GetParam();
    options.measure_recall = measure_recall;
    return MakeEngine(TinyModel(), options);
  }
};
INSTANTIATE_TEST_SUITE_P(EngineDeltaTest, DeltaOfDtypeTest,
                         ::testing::Values("f32", "bf16"),
                         [](const auto& dtype) { return dtype.param; });

TEST_P(DeltaOfDtypeTest, ChunksThatEndOnBlockBordersAreTheWholePrompt) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 6);
  for (const DeltaPattern& pattern : Corrected()) {
    SCOPED_TRACE(pattern.gamma);
    const AttentionChoice choice = {pattern};
    const Outcome whole = Feed(*engine, tokens, choice);
    for (const int chunk : {64, 192}) {
      const Outcome chunks = Feed(*engine, tokens, choice, chunk);
      ASSERT_EQ(chunks.logits, whole.logits);
      EXPECT_EQ(chunks.blocks.computed, whole.blocks.computed);
    }
  }
}

TEST_P(DeltaOfDtypeTest, ASuffixChangesNoRowBeforeItsBlock) {
  const auto engine = Make();
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 7);
  constexpr int kBlock = 128;
  std::vector<TokenId> edited = tokens;
  for (int i = kBlock + 20; i < kTokens; ++i) edited[i] = (edited[i] + 7) % 256;
  for (const DeltaPattern& pattern : Corrected()) {
    SCOPED_TRACE(pattern.gamma);
    std::vector<float> before = Feed(*engine, tokens, {pattern}).logits;
    std::vector<float> after = Feed(*engine, edited, {pattern}).logits;
    EXPECT_NE(before, after);
    before.resize(kBlock * kVocab);
    after.resize(kBlock * kVocab);
    ASSERT_EQ(before, after);
  }
}

// Neither neighbours nor samples of recall, some of them rows that correct
// others, change a bit.
TEST_P(DeltaOfDtypeTest, RowsAreTheSameBesideOthersAndMeasured) {
  const auto engine = Make(/*measure_recall=*/true);
  const std::vector<TokenId> tokens = RandomTokens(250, 8);
  const AttentionChoice choice = {Corrected()[3]};
  const AttentionChoice other = {Corrected()[1]};
  const Stream stream(tokens, /*first_page=*/0);
  const auto run = [&](StepPlan plan, std::vector<float>& logits) {
    plan.slices.push_back(NextSlice(stream, 250, logits));
    plan.slices.back().attention = &choice;
    return plan;
  };
  std::vector<float> alone, beside, other_logits;
  const StepResult expected = engine->Step(run({}, alone)).value();

  const Stream neighbour(RandomTokens(200, 9), /*first_page=*/8);
  StepPlan plan;
  plan.slices.push_back(NextSlice(neighbour, 200, other_logits));
  plan.slices[0].attention = &other;
  plan = run(std::move(plan), beside);
  const std::vector<int32_t> rows = {64, 70, 128, 192};
  std::vector<float> recall(rows.size() * 2 * 4, -1.0f);
  plan.slices[1].recall_rows = rows;
  plan.slices[1].recall = absl::MakeSpan(recall);
  const StepResult result = engine->Step(plan).value();
  EXPECT_EQ(beside, alone);
  EXPECT_EQ(result.slices[1].blocks.computed,
            expected.slices[0].blocks.computed);
  // Recall is the base's: rows 64 and 70 see all, the others do not.
  for (size_t i = 0; i < recall.size(); ++i) {
    if (i < 2 * 8) {
      EXPECT_NEAR(recall[i], 1, 1e-5);
    } else {
      EXPECT_LT(recall[i], 0.999);
      EXPECT_GT(recall[i], 0.1);
    }
  }
}

// The first layer's queries and keys are those of the base alone.
TEST_P(DeltaOfDtypeTest, RecallOfTheFirstLayerIsTheBases) {
  const auto engine = Make(/*measure_recall=*/true);
  const std::vector<TokenId> tokens = RandomTokens(250, 14);
  const std::vector<int32_t> rows = {70, 128, 131, 192, 249};
  const int width = TinyModel().layers * TinyModel().heads;
  const auto recall_of = [&](const AttentionChoice& choice) {
    const Stream stream(tokens, /*first_page=*/0);
    std::vector<float> logits;
    StepSlice slice = NextSlice(stream, 250, logits);
    slice.attention = &choice;
    std::vector<float> recall(rows.size() * width, -1.0f);
    slice.recall_rows = rows;
    slice.recall = absl::MakeSpan(recall);
    EXPECT_EQ(testing::SliceStatus(*engine, slice), absl::OkStatus());
    return recall;
  };
  for (const DeltaPattern& pattern : {Corrected()[0], Corrected()[3]}) {
    const std::vector<float> corrected = recall_of({pattern});
    const std::vector<float> base = recall_of({Uncorrected(pattern)});
    EXPECT_NE(corrected, base);
    for (size_t row = 0; row < rows.size(); ++row) {
      for (int head = 0; head < TinyModel().heads; ++head) {
        EXPECT_EQ(corrected[row * width + head], base[row * width + head]);
      }
    }
  }
}

// Token 255 is poisoned; streams of others do not have it.
std::vector<TokenId> TokensBut255(int count, uint32_t seed) {
  std::vector<TokenId> tokens = RandomTokens(count, seed);
  std::replace(tokens.begin(), tokens.end(), 255, 254);
  return tokens;
}

std::unique_ptr<AttentionProfile> ProfileFor(const TinyModel& model,
                                             int tokens) {
  return std::make_unique<AttentionProfile>(
      AttentionProfile::Shape{model.layers, model.heads, model.kv_heads,
                              tokens},
      AttentionProfile::Options{});
}

TEST_P(DeltaOfDtypeTest, AProfileAnOutputRowAndNaNShareItsStep) {
  TinyModel model;
  model.tied = false;  // the head has no part in the poison
  model.poisoned_token = 255;
  Engine::Options options = testing::ExactOptions();
  options.compute_dtype = GetParam();
  options.measure_recall = true;
  const auto engine = MakeEngine(model, options);
  const AttentionChoice choice = {Corrected()[0]};

  const Stream prompt(TokensBut255(250, 15), /*first_page=*/0);
  const auto slice_of = [&](const AttentionChoice& attention,
                            std::vector<float>& logits,
                            AttentionProfile* profile) {
    StepSlice slice = NextSlice(prompt, 250, logits);
    slice.attention = &attention;
    slice.profile = profile;
    return slice;
  };
  std::vector<float> alone, measured, logits;
  const auto base_profile = ProfileFor(model, 250);
  const auto profile = ProfileFor(model, 250);
  const AttentionChoice base = {Uncorrected(Corrected()[0])};
  ASSERT_EQ(
      testing::SliceStatus(*engine, slice_of(base, logits, base_profile.get())),
      absl::OkStatus());
  ASSERT_EQ(testing::SliceStatus(*engine, slice_of(choice, alone, nullptr)),
            absl::OkStatus());

  Stream output(TokensBut255(101, 16), /*first_page=*/8);
  testing::RunAlone(*engine, output, 100);
  std::vector<float> next_alone, next, poisoned_logits;
  const auto next_of = [&](std::vector<float>& into) {
    StepSlice slice = NextSlice(output, 1, into);
    slice.phase = Phase::kDecode;
    slice.attention = &choice;
    return slice;
  };
  ASSERT_EQ(testing::SliceStatus(*engine, next_of(next_alone)),
            absl::OkStatus());

  std::vector<TokenId> poisoned_tokens = TokensBut255(200, 17);
  poisoned_tokens[100] = 255;
  const Stream poisoned(poisoned_tokens, /*first_page=*/16);
  StepPlan plan;
  plan.slices = {next_of(next), NextSlice(poisoned, 200, poisoned_logits),
                 slice_of(choice, measured, profile.get())};
  plan.slices[1].attention = &choice;
  const StepResult result = engine->Step(plan).value();
  EXPECT_EQ(result.slices[0].status, absl::OkStatus());
  EXPECT_EQ(next, next_alone);
  EXPECT_TRUE(absl::IsInternal(result.slices[1].status));
  EXPECT_EQ(result.slices[2].status, absl::OkStatus());
  EXPECT_EQ(measured, alone);
  // Profiles are the base's, whose queries and keys the first layer has.
  for (int head = 0; head < model.heads; ++head) {
    const HeadMeasures found = MeasuresOf(*profile, 0, head);
    const HeadMeasures wanted = MeasuresOf(*base_profile, 0, head);
    EXPECT_LT(found.recall, 0.999);
    EXPECT_DOUBLE_EQ(found.recall, wanted.recall);
    EXPECT_EQ(found.density, wanted.density);
    EXPECT_DOUBLE_EQ(found.entropy, wanted.entropy);
  }
  EXPECT_NE(MeasuresOf(*profile, 1, 0).recall,
            MeasuresOf(*base_profile, 1, 0).recall);
}

TEST(EngineDeltaTest, VisitsOfDenseRowsAreCounted) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 10);
  const SinkWindowPattern base = {4, 70};
  const Outcome plain = Feed(*engine, tokens, {base});
  const auto extra = [&](int gamma) {
    return Feed(*engine, tokens, {DeltaPattern{base, gamma}}).blocks.computed -
           plain.blocks.computed;
  };
  // Blocks 1 to 4 of 64 rows and block 5 of 10, in two layers of two heads; of
  // block 1 the rows from 74 on, which see less than all.
  EXPECT_EQ(extra(64), 4);
  EXPECT_EQ(extra(8), 1 + 2 + 2 + 3 + 1);
}

TEST(EngineDeltaTest, ABaseWhosePromptComesWholeStillDoes) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(200, 11);
  const AttentionChoice choice = {DeltaPattern{VerticalSlashPattern()}};
  Stream stream(tokens, /*first_page=*/0);
  std::vector<float> logits;
  StepSlice slice = NextSlice(stream, 128, logits);
  slice.attention = &choice;
  slice.prompt = tokens;
  EXPECT_THAT(std::string(testing::SliceStatus(*engine, slice).message()),
              HasSubstr("positions 0 to 127 of 200"));
}

TEST(EngineDeltaTest, BadParametersFailTheirSliceByName) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(4, 12);
  const struct {
    DeltaPattern pattern;
    const char* message;
  } kCases[] = {
      {{TriShapePattern(), 7}, "delta: gamma is 7; allowed: 8"},
      {{XAttentionPattern{.stride = 5}, 64}, "delta.xattention: stride is 5"}};
  for (const auto& bad : kCases) {
    const AttentionChoice choice = {bad.pattern};
    Stream stream(tokens, /*first_page=*/0);
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
