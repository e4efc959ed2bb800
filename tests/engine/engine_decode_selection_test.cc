// Patterns that choose an output row's blocks by scores, through the engine's
// door.

#include <algorithm>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/pattern/pattern_map.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::Stream;
using testing::TinyModel;

// The prompt ends inside block 5, the output in block 7.
constexpr int kPromptTokens = 330;
constexpr int kTokens = 460;
constexpr int kHeads = 4;
constexpr int kLayers = 2;

AttentionChoice Choice(int budget_blocks) {
  return {QuestPattern{.budget_tokens = budget_blocks * kPageTokens,
                       .sink_tokens = 64,
                       .window_tokens = 64,
                       .dense_layers = 1}};
}

// Of all blocks, or of the best of them.
AttentionChoice TopP(float threshold, int candidate_blocks = 8) {
  return {PageTopPPattern{.candidate_tokens = candidate_blocks * kPageTokens,
                          .threshold = threshold,
                          .sink_tokens = 64,
                          .window_tokens = 64,
                          .dense_layers = 1}};
}

AttentionChoice WithReuse(AttentionChoice choice, int reuse_steps) {
  std::visit(
      [&](auto& pattern) {
        if constexpr (requires { pattern.reuse_steps; }) {
          pattern.reuse_steps = reuse_steps;
        }
      },
      choice.pattern);
  return choice;
}

// One of each kind that keeps choices.
std::vector<AttentionChoice> ChoicesThatMayBeKept() {
  return {Choice(3),
          TopP(0.5f),
          {MobaPattern{.block_tokens = 64, .top_k = 2, .dense_layers = 1}}};
}

struct Outcome {
  std::vector<float> logits;  // [tokens, vocab]
  AttentionBlocks prompt;
  AttentionBlocks output;
  std::vector<float> recall;  // [output tokens, layers, heads] if measured
};

struct Way {
  const AttentionChoice* choice = nullptr;
  int chunk = kPromptTokens;  // of the prompt
  PageId first_page = 0;
  bool measures_recall = false;
  KeptBlocks* kept = nullptr;
};

// Runs a prompt in chunks, and the tokens behind it one by one.
Outcome Generate(Engine& engine, const std::vector<TokenId>& tokens,
                 const Way& way) {
  Stream stream(tokens, way.first_page);
  Outcome outcome;
  const std::vector<int32_t> rows = {0};
  while (stream.done < static_cast<int>(tokens.size())) {
    const bool is_prompt = stream.done < kPromptTokens;
    const int count =
        is_prompt ? std::min(way.chunk, kPromptTokens - stream.done) : 1;
    std::vector<float> logits;
    std::vector<float> recall(kLayers * kHeads);
    StepPlan plan;
    plan.slices.push_back(NextSlice(stream, count, logits));
    plan.slices[0].phase = is_prompt ? Phase::kPrefill : Phase::kDecode;
    plan.slices[0].attention = way.choice;
    plan.slices[0].kept_blocks = way.kept;
    if (way.measures_recall && !is_prompt) {
      plan.slices[0].recall_rows = rows;
      plan.slices[0].recall = absl::MakeSpan(recall);
    }
    const StepResult result = engine.Step(plan).value();
    EXPECT_EQ(result.slices[0].status, absl::OkStatus());
    AttentionBlocks& blocks = is_prompt ? outcome.prompt : outcome.output;
    blocks.computed += result.slices[0].blocks.computed;
    blocks.allowed += result.slices[0].blocks.allowed;
    outcome.logits.insert(outcome.logits.end(), logits.begin(), logits.end());
    if (!is_prompt) {
      outcome.recall.insert(outcome.recall.end(), recall.begin(), recall.end());
    }
    stream.done += count;
  }
  return outcome;
}

std::vector<float> Rows(const std::vector<float>& logits, int begin, int end) {
  return std::vector<float>(logits.begin() + begin * TinyModel::kVocabSize,
                            logits.begin() + end * TinyModel::kVocabSize);
}

TEST(EngineDecodeSelectionTest, ABudgetOfTheWholeContextIsDenseToTheBit) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 1);
  for (const AttentionChoice& choice : {Choice(8), TopP(1.0f)}) {
    SCOPED_TRACE(PatternName(choice.pattern));
    const Outcome all = Generate(*engine, tokens, {.choice = &choice});
    EXPECT_EQ(all.logits, Generate(*engine, tokens, {}).logits);
    EXPECT_EQ(all.output.computed, all.output.allowed);
  }
}

TEST(EngineDecodeSelectionTest, AllOfTheCandidatesIsTheirBudget) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 1);
  const AttentionChoice budget = Choice(4);
  const AttentionChoice candidates = TopP(1.0f, 4);
  EXPECT_EQ(Generate(*engine, tokens, {.choice = &candidates}).logits,
            Generate(*engine, tokens, {.choice = &budget}).logits);
}

// Where every block is a candidate the weights are those of dense attention, so
// recall says of each row what was kept.
TEST(EngineDecodeSelectionTest, HeadsKeepTheirShareOfTheWeightTogether) {
  Engine::Options options = testing::ExactOptions();
  options.measure_recall = true;
  const auto engine = MakeEngine(TinyModel(), options);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 8);
  int64_t before = 0;
  for (const float threshold : {0.5f, 0.7f, 0.9f}) {
    SCOPED_TRACE(threshold);
    const AttentionChoice choice = TopP(threshold);
    const Outcome outcome =
        Generate(*engine, tokens, {.choice = &choice, .measures_recall = true});
    EXPECT_LT(outcome.output.computed, outcome.output.allowed);
    EXPECT_GT(outcome.output.computed, before);
    before = outcome.output.computed;
    for (size_t i = 0; i < outcome.recall.size(); i += 2) {
      const float of_kv_head = (outcome.recall[i] + outcome.recall[i + 1]) / 2;
      if (i / kHeads % kLayers == 0) {
        EXPECT_NEAR(of_kv_head, 1, 1e-5f);
      } else {
        EXPECT_GE(of_kv_head, threshold - 1e-5f);
      }
    }
  }
}

TEST(EngineDecodeSelectionTest, OutputRowsVisitTheBudgetAndPromptsEverything) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 1);
  const Outcome dense = Generate(*engine, tokens, {});
  for (const int budget : {1, 2, 3, 6}) {
    SCOPED_TRACE(budget);
    const AttentionChoice choice = Choice(budget);
    const Outcome chosen = Generate(*engine, tokens, {.choice = &choice});
    EXPECT_EQ(chosen.prompt.computed, dense.prompt.computed);
    EXPECT_EQ(Rows(chosen.logits, 0, kPromptTokens),
              Rows(dense.logits, 0, kPromptTokens));
    // Two KV heads: layer 0 sees all; layer 1 the budget, but never less than
    // the first block and the row's own.
    int64_t computed = 0;
    for (int position = kPromptTokens; position < kTokens; ++position) {
      const int blocks = position / kPageTokens + 1;
      computed += 2 * (blocks + std::min(blocks, std::max(budget, 2)));
    }
    EXPECT_EQ(chosen.output.computed, computed);
    EXPECT_EQ(chosen.output.allowed, dense.output.allowed);
    EXPECT_NE(Rows(chosen.logits, kPromptTokens, kTokens),
              Rows(dense.logits, kPromptTokens, kTokens));
  }
}

// Bounds of pages are the same, whichever steps filled them.
TEST(EngineDecodeSelectionTest, OutputIsTheSameHoweverThePromptWasCut) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 2);
  for (const AttentionChoice& choice : {Choice(3), TopP(0.5f, 5)}) {
    SCOPED_TRACE(PatternName(choice.pattern));
    const Outcome whole = Generate(*engine, tokens, {.choice = &choice});
    for (const int chunk : {1, 50, 64, 200}) {
      SCOPED_TRACE(chunk);
      EXPECT_EQ(
          Generate(*engine, tokens, {.choice = &choice, .chunk = chunk}).logits,
          whole.logits);
    }
  }
}

// With one block a row, its own of 128 tokens, and the first 64.
TEST(EngineDecodeSelectionTest, MobaChoosesForPromptAndOutput) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 2);
  const AttentionChoice choice = {
      MobaPattern{.block_tokens = 128, .top_k = 1, .dense_layers = 1}};
  const Outcome whole = Generate(*engine, tokens, {.choice = &choice});
  const auto visited = [](int block) {
    return block < 2 ? block + 1 : 2 + block % 2;
  };
  int64_t prompt = 0;
  for (int block = 0; block <= kPromptTokens / kPageTokens; ++block) {
    prompt += 2 * (block + 1 + visited(block));
  }
  EXPECT_EQ(whole.prompt.computed, prompt);
  int64_t output = 0;
  for (int position = kPromptTokens; position < kTokens; ++position) {
    const int block = position / kPageTokens;
    output += 2 * (block + 1 + visited(block));
  }
  EXPECT_EQ(whole.output.computed, output);
  // Which blocks two a row are follows from content, however the prompt is cut.
  const AttentionChoice two = {
      MobaPattern{.block_tokens = 64, .top_k = 2, .dense_layers = 1}};
  const Outcome chosen = Generate(*engine, tokens, {.choice = &two});
  EXPECT_LT(chosen.output.computed, chosen.output.allowed);
  for (const int chunk : {64, 192}) {
    EXPECT_EQ(
        Generate(*engine, tokens, {.choice = &two, .chunk = chunk}).logits,
        chosen.logits);
  }
}

TEST(EngineDecodeSelectionTest, NothingOfAPagesFormerUseShows) {
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 3);
  const AttentionChoice choice = Choice(3);
  const Outcome fresh =
      Generate(*MakeEngine(TinyModel()), tokens, {.choice = &choice});
  const auto engine = MakeEngine(TinyModel());
  // The same pages, full, half and with other choices.
  Generate(*engine, RandomTokens(512, 4), {.choice = &choice});
  Generate(*engine, RandomTokens(kPromptTokens + 3, 5), {});
  EXPECT_EQ(Generate(*engine, tokens, {.choice = &choice}).logits,
            fresh.logits);
}

// A poisoned sequence leaves NaN in its pages and their bounds.
TEST(EngineDecodeSelectionTest, NotANumberInAPagesFormerUseDoesNotShow) {
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 3);
  std::vector<TokenId> poisoned(512, 256);
  const AttentionChoice choice = Choice(3);
  const auto engine = MakeEngine({.tied = false, .poisoned_token = 256});
  const Outcome fresh = Generate(*engine, tokens, {.choice = &choice});
  Stream stream(poisoned, /*first_page=*/0);
  std::vector<float> unused;
  EXPECT_FALSE(
      testing::SliceStatus(*engine, NextSlice(stream, 512, unused)).ok());
  EXPECT_EQ(Generate(*engine, tokens, {.choice = &choice}).logits,
            fresh.logits);
}

TEST(EngineDecodeSelectionTest, RowIsTheSameBesideOthers) {
  const auto engine = MakeEngine(TinyModel());
  const AttentionChoice choice = Choice(3);
  const AttentionChoice tight = Choice(2);
  const std::vector<TokenId> tokens = RandomTokens(kPromptTokens + 1, 4);
  const std::vector<TokenId> others = RandomTokens(kPromptTokens + 1, 5);
  const Outcome alone = Generate(*engine, tokens, {.choice = &choice});
  const Outcome tight_alone =
      Generate(*engine, others, {.choice = &tight, .first_page = 8});
  const Outcome dense_alone = Generate(*engine, others, {.first_page = 16});
  StepPlan plan;
  std::vector<std::vector<float>> logits(3);
  std::vector<Stream> streams = {{others, 16}, {tokens, 0}, {others, 8}};
  const AttentionChoice* const choices[] = {nullptr, &choice, &tight};
  for (int i = 0; i < 3; ++i) {
    streams[i].done = kPromptTokens;
    plan.slices.push_back(NextSlice(streams[i], 1, logits[i]));
    plan.slices[i].attention = choices[i];
  }
  const StepResult result = engine->Step(plan).value();
  const Outcome* const expected[] = {&dense_alone, &alone, &tight_alone};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(logits[i],
              Rows(expected[i]->logits, kPromptTokens, kPromptTokens + 1));
    EXPECT_EQ(result.slices[i].blocks.computed, expected[i]->output.computed);
  }
}

// What a row chooses in the last layer is in its own logits alone. So rows that
// choose give those of a run in which all do.
TEST(EngineDecodeSelectionTest, RowsChooseWhereTheirPeriodBegins) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 9);
  for (const AttentionChoice& choice : ChoicesThatMayBeKept()) {
    SCOPED_TRACE(PatternName(choice.pattern));
    const Outcome each = Generate(*engine, tokens, {.choice = &choice});
    for (const int steps : {1, 4, 16, 64}) {
      SCOPED_TRACE(steps);
      const AttentionChoice reusing = WithReuse(choice, steps);
      KeptBlocks kept;
      const Outcome outcome =
          Generate(*engine, tokens, {.choice = &reusing, .kept = &kept});
      int same = 0;
      for (int position = kPromptTokens; position < kTokens; ++position) {
        const bool is_same = Rows(outcome.logits, position, position + 1) ==
                             Rows(each.logits, position, position + 1);
        same += is_same;
        if (position == kPromptTokens || position % steps == 0) {
          EXPECT_TRUE(is_same) << position;
        }
      }
      if (steps > 1) {
        EXPECT_LT(same, 100);
      }
      // Nothing is kept for a sequence that has nowhere to keep it.
      EXPECT_EQ(Generate(*engine, tokens, {.choice = &reusing}).logits,
                each.logits);
    }
  }
}

TEST(EngineDecodeSelectionTest, ReuseVisitsNoMoreThanTheBudget) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 9);
  const AttentionChoice each = Choice(3);
  const AttentionChoice reusing = WithReuse(each, 64);
  KeptBlocks kept;
  const Outcome outcome =
      Generate(*engine, tokens, {.choice = &reusing, .kept = &kept});
  EXPECT_EQ(outcome.output.computed,
            Generate(*engine, tokens, {.choice = &each}).output.computed);
}

// A sequence that is set back: rows behind their choice use it again, and
// others choose.
TEST(EngineDecodeSelectionTest, RowsThatAreRunAgainAreTheSame) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 10);
  const AttentionChoice each = Choice(3);
  const AttentionChoice reusing = WithReuse(each, 16);
  const Outcome chosen = Generate(*engine, tokens, {.choice = &each});
  KeptBlocks kept;
  const Outcome first =
      Generate(*engine, tokens, {.choice = &reusing, .kept = &kept});
  Stream stream(tokens, /*first_page=*/0);
  const auto run = [&](int position) {
    stream.done = position;
    std::vector<float> logits;
    StepSlice slice = NextSlice(stream, 1, logits);
    slice.attention = &reusing;
    slice.kept_blocks = &kept;
    EXPECT_EQ(testing::SliceStatus(*engine, slice), absl::OkStatus());
    return logits;
  };
  // The last choice was that of 448.
  for (const int position : {459, 455, 459, 448, 451}) {
    EXPECT_EQ(run(position), Rows(first.logits, position, position + 1))
        << position;
  }
  EXPECT_EQ(run(441), Rows(chosen.logits, 441, 442));
}

// A prompt that is run again, or that of another sequence.
TEST(EngineDecodeSelectionTest, NothingKeptOutlivesAPrompt) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 11);
  const AttentionChoice reusing = WithReuse(Choice(3), 64);
  KeptBlocks kept;
  const Outcome first =
      Generate(*engine, tokens, {.choice = &reusing, .kept = &kept});
  Generate(*engine, RandomTokens(kPromptTokens + 5, 12),
           {.choice = &reusing, .kept = &kept});
  EXPECT_EQ(
      Generate(*engine, tokens, {.choice = &reusing, .kept = &kept}).logits,
      first.logits);
}

TEST(EngineDecodeSelectionTest, KeptChoicesOfSequencesDoNotMix) {
  const auto engine = MakeEngine(TinyModel());
  const AttentionChoice slow = WithReuse(Choice(3), 64);
  const AttentionChoice fast = WithReuse(TopP(0.5f), 4);
  const std::vector<TokenId> tokens[] = {RandomTokens(kPromptTokens + 8, 13),
                                         RandomTokens(kPromptTokens + 8, 14)};
  const AttentionChoice* const choices[] = {&slow, &fast};
  KeptBlocks kept[2];
  Outcome alone[2];
  for (int i = 0; i < 2; ++i) {
    alone[i] =
        Generate(*engine, tokens[i],
                 {.choice = choices[i], .first_page = 8 * i, .kept = &kept[i]});
    kept[i].Forget();
  }
  Stream streams[] = {{tokens[0], 0}, {tokens[1], 8}};
  for (int position = kPromptTokens; position < kPromptTokens + 8; ++position) {
    StepPlan plan;
    std::vector<float> logits[2];
    for (int i = 0; i < 2; ++i) {
      streams[i].done = position;
      plan.slices.push_back(NextSlice(streams[i], 1, logits[i]));
      plan.slices[i].attention = choices[i];
      plan.slices[i].kept_blocks = &kept[i];
    }
    ASSERT_TRUE(engine->Step(plan).ok());
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(logits[i], Rows(alone[i].logits, position, position + 1));
    }
  }
}

// In the first layer that selects queries and keys are those of the dense run,
// so what a larger budget adds can only add weight.
TEST(EngineDecodeSelectionTest, LargerBudgetsNeverHaveLessRecall) {
  Engine::Options options = testing::ExactOptions();
  options.measure_recall = true;
  const auto engine = MakeEngine(TinyModel(), options);
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 6);
  std::vector<float> before((kTokens - kPromptTokens) * kLayers * kHeads);
  int risen = 0;
  for (const int budget : {2, 3, 5, 8}) {
    SCOPED_TRACE(budget);
    const AttentionChoice choice = Choice(budget);
    const Outcome outcome =
        Generate(*engine, tokens, {.choice = &choice, .measures_recall = true});
    ASSERT_EQ(outcome.recall.size(), before.size());
    for (size_t i = 0; i < before.size(); ++i) {
      const bool is_dense = i / kHeads % kLayers == 0 || budget == 8;
      EXPECT_GE(outcome.recall[i], before[i] - 1e-5f);
      EXPECT_LE(outcome.recall[i], 1 + 1e-5f);
      if (is_dense) {
        EXPECT_NEAR(outcome.recall[i], 1, 1e-5f);
      }
      risen += before[i] > 0 && outcome.recall[i] > before[i] + 1e-3f;
    }
    before = outcome.recall;
  }
  EXPECT_GT(risen, 300);
}

// Streaming heads (DuoAttention; LServe with chosen pages for the others): some
// heads see sinks and a window in prompt and output, the others every key or
// the best pages.
TEST(EngineDecodeSelectionTest, StreamingHeadsStandBesideOthersInAMap) {
  const auto engine = MakeEngine(TinyModel());
  const std::vector<TokenId> tokens = RandomTokens(kTokens, 7);
  const SinkWindowPattern streaming = {64, 65};
  QuestPattern quest = std::get<QuestPattern>(Choice(3).pattern);
  quest.dense_layers = 0;
  const struct {
    PatternSpec others;
    int most_blocks;  // of an output row
  } kCases[] = {{DensePattern(), 8}, {quest, 3}};
  for (const auto& c : kCases) {
    SCOPED_TRACE(PatternName(c.others));
    const AttentionChoice choice = {
        .map = std::make_shared<const PatternMap>(
            PatternMap::Create({2, 2}, {streaming, c.others}, {0, 1, 1, 0})
                .value())};
    const Outcome outcome = Generate(*engine, tokens, {.choice = &choice});
    // Of every layer one head sees the first block and the two that hold its
    // latest 65 keys.
    int64_t computed = 0;
    for (int position = kPromptTokens; position < kTokens; ++position) {
      const int blocks = position / kPageTokens + 1;
      computed += 2 * (3 + std::min(blocks, c.most_blocks));
    }
    EXPECT_EQ(outcome.output.computed, computed);
    EXPECT_LT(outcome.prompt.computed, outcome.prompt.allowed);
    EXPECT_EQ(
        Generate(*engine, tokens, {.choice = &choice, .chunk = 100}).logits,
        outcome.logits);
  }
}

TEST(EngineDecodeSelectionTest, BadChoicesFailTheirSliceByName) {
  const auto engine = MakeEngine(TinyModel());
  const AttentionChoice choice = {QuestPattern{.budget_tokens = 0}};
  Stream stream(RandomTokens(4, 1), /*first_page=*/0);
  std::vector<float> logits;
  StepSlice slice = NextSlice(stream, 4, logits);
  slice.attention = &choice;
  const absl::Status status = testing::SliceStatus(*engine, slice);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("quest: budget_tokens is 0; allowed: 1 or more"));
}

}  // namespace
}  // namespace sparseserve
