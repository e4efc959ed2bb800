// Patterns that rows of dense attention correct, through the engine's door.

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/model/gguf_file.h"
#include "engine/pattern/attention_choice.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/reference_transformer.h"
#include "tests/testing/static_rules.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::ReferenceTransformer;
using testing::StaticRuleKeys;
using testing::Stream;
using testing::TinyModel;

constexpr int kPrompt = 330;
constexpr int kTokens = kPrompt + 3;  // those after the prompt are decode rows
constexpr int kVocab = TinyModel::kVocabSize;

struct Outcome {
  std::vector<float> logits;  // [tokens, vocab]
  AttentionBlocks blocks;
};

// The prompt in chunks, then the other tokens one by one.
Outcome Feed(Engine& engine, const std::vector<TokenId>& tokens,
             const AttentionChoice& choice, int chunk = kPrompt) {
  Stream stream(tokens, /*first_page=*/0);
  Outcome outcome;
  while (stream.done < kTokens) {
    const bool decodes = stream.done >= kPrompt;
    const int count = decodes ? 1 : std::min(chunk, kPrompt - stream.done);
    std::vector<float> logits;
    StepPlan plan;
    plan.slices.push_back(NextSlice(stream, count, logits));
    plan.slices[0].phase = decodes ? Phase::kDecode : Phase::kPrefill;
    plan.slices[0].prompt = absl::MakeConstSpan(tokens).first(kPrompt);
    plan.slices[0].attention = &choice;
    const StepResult result = engine.Step(plan).value();
    EXPECT_EQ(result.slices[0].status, absl::OkStatus());
    outcome.blocks.computed += result.slices[0].blocks.computed;
    outcome.blocks.allowed += result.slices[0].blocks.allowed;
    outcome.logits.insert(outcome.logits.end(), logits.begin(), logits.end());
    stream.done += count;
  }
  return outcome;
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
  std::vector<std::vector<std::vector<bool>>> seen;
  for (const PatternSpec& pattern : patterns) {
    seen.emplace_back(kTokens, std::vector<bool>(kTokens));
    for (int row = 0; row < kTokens; ++row) {
      for (const auto& key :
           StaticRuleKeys(pattern, {row, row >= kPrompt, kPrompt})) {
        seen.back()[row][key.key] = true;
      }
    }
  }
  const std::string bytes = model.Build();
  const auto file =
      GgufFile::Parse(
          absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()),
                              bytes.size()))
          .value();
  const auto pattern_at = [&](int layer, int kv_head) {
    return pattern_of[layer * model.kv_heads + kv_head];
  };
  return ReferenceTransformer(*file).Logits(
      tokens,
      [&](int layer, int kv_head, int row, int column) -> bool {
        return seen[pattern_at(layer, kv_head)][row][column];
      },
      [&](int layer, int kv_head, int row) {
        const auto* delta =
            std::get_if<DeltaPattern>(&patterns[pattern_at(layer, kv_head)]);
        return delta == nullptr || row >= kPrompt
                   ? -1
                   : corrector(delta->gamma, row);
      });
}

int OnTheGrid(int gamma, int row) { return row / gamma * gamma; }

void ExpectEqual(const std::vector<float>& found,
                 const std::vector<std::vector<double>>& wanted) {
  ASSERT_EQ(found.size(), wanted.size() * kVocab);
  for (size_t row = 0; row < wanted.size(); ++row) {
    const auto [low, high] =
        std::minmax_element(wanted[row].begin(), wanted[row].end());
    for (int i = 0; i < kVocab; ++i) {
      ASSERT_NEAR(found[row * kVocab + i], wanted[row][i],
                  1e-4 * (*high - *low))
          << "row " << row << ", logit " << i;
    }
  }
}

TEST(EngineDeltaTest, EqualsTheReferenceOfTheFormula) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 1);
  for (const DeltaPattern& pattern :
       {Corrected()[0], Corrected()[1], Corrected()[2]}) {
    SCOPED_TRACE(pattern.gamma);
    ExpectEqual(
        Feed(*engine, tokens, {pattern}).logits,
        ReferenceLogits(model, tokens, {pattern}, {0, 0, 0, 0}, OnTheGrid));
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
  ExpectEqual(
      Feed(*engine, tokens, choice).logits,
      ReferenceLogits(model, tokens, patterns, {0, 1, 2, 3}, OnTheGrid));
}

TEST(EngineDeltaTest, AChunkThatBeginsInABlockCorrectsByItsFirstRow) {
  const TinyModel model;
  const auto engine = MakeEngine(model);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 3);
  constexpr int kChunk = 101;
  const DeltaPattern pattern = {SinkWindowPattern{4, 70}, 32};
  ExpectEqual(Feed(*engine, tokens, {pattern}, kChunk).logits,
              ReferenceLogits(model, tokens, {pattern}, {0, 0, 0, 0},
                              [](int gamma, int row) {
                                return std::max(OnTheGrid(gamma, row),
                                                OnTheGrid(kChunk, row));
                              }));
}

// Rows on the grid see the first layer as a dense run does, and so have its
// logits where there is no other layer.
TEST(EngineDeltaTest, RowsOnTheGridAreDenseUpToRounding) {
  const auto engine = MakeEngine({.layers = 1});
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 4);
  const std::vector<float> dense =
      Feed(*engine, tokens, {DensePattern()}).logits;
  const auto error_of = [&](const std::vector<float>& logits, int row) {
    double error = 0;
    for (int i = row * kVocab; i < (row + 1) * kVocab; ++i) {
      error = std::max(error, std::abs(double{logits[i]} - dense[i]));
    }
    return error;
  };
  for (const DeltaBase& base :
       {DeltaBase(Chosen(0.3f)), DeltaBase(VerticalSlashPattern{1, 1, 64, 0}),
        DeltaBase(SinkWindowPattern{1, 20})}) {
    const std::vector<float> corrected =
        Feed(*engine, tokens, {DeltaPattern{base, 16}}).logits;
    double worst = 0;
    double between = 0;
    for (int row = 0; row < kPrompt; ++row) {
      (row % 16 == 0 ? worst : between) =
          std::max(row % 16 == 0 ? worst : between, error_of(corrected, row));
    }
    EXPECT_LT(worst, 1e-5);
    EXPECT_GT(between, 1e-3);
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

TEST(EngineDeltaTest, VisitsOfDenseRowsAreCounted) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 10);
  const SinkWindowPattern base = {4, 70};
  const Outcome plain = Feed(*engine, tokens, {base});
  const auto extra = [&](int gamma) {
    return Feed(*engine, tokens, {DeltaPattern{base, gamma}}).blocks.computed -
           plain.blocks.computed;
  };
  // Blocks 1 to 4 of 64 rows and block 5 of 10, in two layers of two heads.
  EXPECT_EQ(extra(64), 5);
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
