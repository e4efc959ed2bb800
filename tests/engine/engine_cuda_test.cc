// The whole model on a GPU beside the same on a CPU in exact mode: every static
// pattern and those whose blocks a GPU chooses, prompts whole and in chunks,
// output, several sequences at once, and what it samples.
// Tests skip themselves where there is no GPU.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "engine/pattern/attention_choice.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/pattern/pattern_map.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fed_text.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using testing::CreateEngine;
using testing::ExactOptions;
using testing::FedText;
using testing::Feed;
using ::testing::HasSubstr;
using testing::RandomTokens;
using testing::TinyModel;

Engine::Options CudaOptions() {
  Engine::Options options = ExactOptions();
  options.device = "cuda";
  options.compute_dtype = "auto";
  return options;
}

TinyModel ModelOf(int head_dim, int heads, int kv_heads) {
  TinyModel model;
  model.layers = 3;
  model.hidden = 128;
  model.mlp_hidden = 192;
  model.head_dim = head_dim;
  model.heads = heads;
  model.kv_heads = kv_heads;
  return model;
}

struct Difference {
  double mean = 0;   // of all logits, as a share of their row's range
  double worst = 0;  // infinite if one is NaN
  // Of rows with a logit further off than rounding brings it.
  std::vector<int> far_rows;
};

// Of a row's range.
constexpr double kRounding = 0.04;

Difference Compare(const std::vector<float>& found,
                   const std::vector<float>& wanted) {
  Difference difference;
  const size_t vocab = TinyModel::kVocabSize;
  for (size_t row = 0; row < wanted.size() / vocab; ++row) {
    const auto begin = wanted.begin() + row * vocab;
    const auto [least, greatest] = std::minmax_element(begin, begin + vocab);
    const double range = *greatest - *least;
    bool is_far = false;
    for (size_t i = 0; i < vocab; ++i) {
      const double off = std::abs(found[row * vocab + i] - begin[i]) / range;
      difference.mean += off / static_cast<double>(wanted.size());
      if (!(off <= difference.worst)) {
        difference.worst = std::isnan(off) ? HUGE_VAL : off;
      }
      is_far = is_far || !(off <= kRounding);
    }
    if (is_far) difference.far_rows.push_back(static_cast<int>(row));
  }
  return difference;
}

class EngineCudaTest : public ::testing::Test {
 protected:
  // Skips the test if there is no GPU.
  void Load(const TinyModel& model) {
    const std::string bytes = model.Build();
    auto cuda = CreateEngine(bytes, CudaOptions());
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
    cpu_ = CreateEngine(bytes).value();
    ASSERT_EQ(cuda_->device(), "cuda");
  }

  // bf16 rounds every row a dozen times in three layers.
  void ExpectAlike(const std::string& what, const std::vector<TokenId>& tokens,
                   int prompt, const AttentionChoice* choice, int chunk = 0) {
    const FedText found = Feed(*cuda_, tokens, prompt, choice, chunk);
    const FedText wanted = Feed(*cpu_, tokens, prompt, choice, chunk);
    const Difference difference = Compare(found.logits, wanted.logits);
    std::cout << what << ": mean difference " << difference.mean << ", worst "
              << difference.worst << " of a row's range\n";
    EXPECT_LE(difference.mean, 0.004) << what;
    EXPECT_LE(difference.worst, kRounding) << what;
    EXPECT_EQ(found.blocks.computed, wanted.blocks.computed) << what;
  }

  // Likewise where blocks are chosen by scores: two blocks at the edge of a
  // choice may be nearer to each other than bf16 can tell, and the tile of a
  // prompt or the row of output that takes the other one is further off.
  void ExpectAlikeButForTies(const std::string& what,
                             const std::vector<TokenId>& tokens, int prompt,
                             const AttentionChoice& choice, int chunk = 0) {
    KeptBlocks kept;
    KeptBlocks cpu_kept;
    const FedText found = Feed(*cuda_, tokens, prompt, &choice, chunk, &kept);
    const FedText wanted =
        Feed(*cpu_, tokens, prompt, &choice, chunk, &cpu_kept);
    const Difference difference = Compare(found.logits, wanted.logits);
    std::set<int> far_tiles;
    int far_output = 0;
    for (const int row : difference.far_rows) {
      if (row < prompt) far_tiles.insert(row / kPageTokens);
      if (row >= prompt) ++far_output;
    }
    std::cout << what << ": mean difference " << difference.mean << ", worst "
              << difference.worst << ", " << far_tiles.size() << " tiles and "
              << far_output << " rows of output far off; "
              << found.blocks.computed << " blocks, " << wanted.blocks.computed
              << " on CPU, of " << wanted.blocks.allowed << "\n";
    EXPECT_LE(difference.mean, 0.006) << what;
    EXPECT_LE(far_tiles.size(), 1) << what;
    EXPECT_LE(far_output, 3) << what;
    EXPECT_LT(wanted.blocks.computed, wanted.blocks.allowed) << what;
    EXPECT_NEAR(static_cast<double>(found.blocks.computed),
                static_cast<double>(wanted.blocks.computed),
                0.01 * static_cast<double>(wanted.blocks.computed))
        << what;
  }

  // Slices of one token each that sample by these parameters.
  struct Sampled {
    std::vector<SliceResult> host;
    std::vector<SliceResult> device;
  };
  Sampled SampleTwice(const std::vector<SamplingParams>& params) {
    const std::vector<TokenId> tokens = RandomTokens(71, 21);
    const std::vector<TokenId> banned = {3, 77};
    std::vector<testing::Stream> streams;
    std::vector<std::vector<float>> rows(params.size());
    StepPlan plan;
    for (size_t i = 0; i < params.size(); ++i) {
      streams.emplace_back(tokens, static_cast<PageId>(8 * i));
      streams[i].tokens[70] = static_cast<TokenId>(i % 7);
      testing::RunAlone(*cuda_, streams[i], 70);
    }
    for (size_t i = 0; i < params.size(); ++i) {
      StepSlice slice = testing::NextSlice(streams[i], 1, rows[i]);
      slice.phase = Phase::kDecode;
      slice.wants_token = true;
      slice.sampling = &params[i];
      slice.prompt = absl::MakeConstSpan(tokens).first(60);
      slice.output = absl::MakeConstSpan(tokens).subspan(60, 10);
      slice.banned = banned;
      plan.slices.push_back(slice);
    }
    Sampled sampled;
    sampled.host = cuda_->Step(plan).value().slices;
    for (StepSlice& slice : plan.slices) slice.all_logits = {};
    sampled.device = cuda_->Step(plan).value().slices;
    return sampled;
  }

  std::unique_ptr<Engine> cuda_;
  std::unique_ptr<Engine> cpu_;
};

PatternSpec XAttention(int stride, float threshold) {
  return XAttentionPattern{
      .stride = stride, .threshold = threshold, .dense_layers = 1};
}
PatternSpec Quest(int budget_tokens, int reuse_steps = 1) {
  return QuestPattern{.budget_tokens = budget_tokens,
                      .sink_tokens = 64,
                      .window_tokens = 64,
                      .dense_layers = 1,
                      .reuse_steps = reuse_steps};
}

TEST_F(EngineCudaTest, DenseIsTheCpusForEveryShapeOfHeads) {
  struct Shape {
    int head_dim, heads, kv_heads;
  };
  for (const auto& [head_dim, heads, kv_heads] :
       {Shape{64, 4, 4}, Shape{64, 3, 1}, Shape{64, 8, 2}, Shape{128, 4, 2},
        Shape{128, 8, 1}}) {
    ASSERT_NO_FATAL_FAILURE(Load(ModelOf(head_dim, heads, kv_heads)));
    if (IsSkipped()) return;
    const std::string what = std::to_string(head_dim) + ", " +
                             std::to_string(heads) + " heads, " +
                             std::to_string(kv_heads) + " KV heads";
    for (const int prompt : {1, 63, 64, 65, 200, 411}) {
      ExpectAlike(what + ", prompt of " + std::to_string(prompt),
                  RandomTokens(prompt + 9, 7), prompt, nullptr);
    }
    ExpectAlike(what + ", chunks of 50", RandomTokens(300, 8), 290, nullptr,
                50);
  }
}

TEST_F(EngineCudaTest, PatternsAreTheCpus) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 6, 2)));
  if (IsSkipped()) return;
  const std::vector<std::pair<std::string, PatternSpec>> patterns = {
      {"sliding window", SlidingWindowPattern{.window_tokens = 100}},
      {"sink and window", SinkWindowPattern{64, 128}},
      {"sinks inside a block", SinkWindowPattern{5, 77}},
      {"tri-shape", TriShapePattern{}},
      {"strided", StridedPattern{}},
      {"fixed", FixedPattern{}},
      {"dilated", DilatedWindowPattern{.dilation = 3, .window_keys = 40}},
      {"chunked", ChunkedLocalPattern{.chunk_tokens = 100}},
  };
  for (const auto& [name, pattern] : patterns) {
    const AttentionChoice choice = {pattern};
    ExpectAlike(name, RandomTokens(420, 9), 400, &choice);
    ExpectAlike(name + ", chunks of 64", RandomTokens(330, 10), 320, &choice,
                64);
  }
}

TEST_F(EngineCudaTest, ChoicesByScoresAreTheCpus) {
  for (const auto& [head_dim, heads, kv_heads] :
       {std::array{64, 6, 2}, std::array{128, 4, 1}}) {
    ASSERT_NO_FATAL_FAILURE(Load(ModelOf(head_dim, heads, kv_heads)));
    if (IsSkipped()) return;
    const std::vector<std::pair<std::string, PatternSpec>> patterns = {
        {"xattention", XAttention(8, 0.5f)},
        {"xattention of stride 32", XAttention(32, 0.7f)},
        {"similarity_gated",
         SimilarityGatedPattern{
             .similarity = 0.1f, .threshold = 0.8f, .dense_layers = 1}},
        {"quest", Quest(192)},
        {"quest with reuse", Quest(192, 16)}};
    for (const auto& [name, pattern] : patterns) {
      const AttentionChoice choice = {pattern};
      ExpectAlikeButForTies(name, RandomTokens(450, 9), 410, choice);
      ExpectAlikeButForTies(name + ", chunks of 64", RandomTokens(450, 10), 420,
                            choice, 64);
    }
  }
}

// A prompt comes whole, and so do the rows that choose.
TEST_F(EngineCudaTest, ChoicesByLastRowsAreTheCpus) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 6, 2)));
  if (IsSkipped()) return;
  const PatternSpec vertical_slash =
      VerticalSlashPattern{.columns = 40, .diagonals = 60, .dense_layers = 1};
  const PatternSpec flex_prefill = FlexPrefillPattern{
      .gamma = 0.6f, .tau = 0, .min_budget_tokens = 64, .dense_layers = 1};
  const PatternSpec by_map = FlexPrefillPattern{
      .gamma = 0.6f, .tau = 10, .min_budget_tokens = 64, .dense_layers = 1};
  for (const PatternSpec& pattern : {vertical_slash, flex_prefill, by_map}) {
    ExpectAlikeButForTies(std::string(PatternName(pattern)),
                          RandomTokens(450, 9), 410, {pattern});
  }
  AttentionChoice choice;
  choice.map = std::make_shared<const PatternMap>(
      PatternMap::Create(
          {3, 2},
          {vertical_slash, flex_prefill, XAttention(8, 0.8f), Quest(192)},
          {0, 1, 2, 0, 3, 1})
          .value());
  ExpectAlikeButForTies("map", RandomTokens(460, 11), 420, choice);
}

// Windows are masks, so rows of output go to the kernel for prompts, with lists
// that were chosen for rows.
TEST_F(EngineCudaTest, MapsMixWhatPositionsAndScoresChoose) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 6, 3)));
  if (IsSkipped()) return;
  AttentionChoice choice;
  choice.map = std::make_shared<const PatternMap>(
      PatternMap::Create({3, 3},
                         {DensePattern(), SinkWindowPattern{64, 100},
                          XAttention(8, 0.8f), Quest(192), Quest(192, 8)},
                         {0, 2, 3, 1, 2, 3, 4, 1, 0})
          .value());
  ExpectAlikeButForTies("map", RandomTokens(460, 11), 420, choice);
  ExpectAlikeButForTies("map, chunks of 128", RandomTokens(430, 12), 400,
                        choice, 128);
}

// Prompts and output of all kinds in one step.
TEST_F(EngineCudaTest, MixedStepsAreThoseAlone) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 4, 2)));
  if (IsSkipped()) return;
  const std::vector<AttentionChoice> choices = {
      {XAttention(8, 0.8f)},
      {Quest(192)},
      {XAttention(16, 0.7f)},
      {Quest(256)},
      {SimilarityGatedPattern{.threshold = 0.8f, .dense_layers = 1}},
      {DensePattern()}};
  constexpr int kPrompt = 400;
  std::vector<testing::Stream> streams;
  std::vector<std::vector<float>> wanted(choices.size());
  std::vector<std::vector<float>> rows(choices.size());
  std::vector<FedText> alone;
  for (size_t s = 0; s < choices.size(); ++s) {
    alone.push_back(
        Feed(*cuda_, RandomTokens(kPrompt + 1, 30 + s), kPrompt, &choices[s]));
  }
  StepPlan plan;
  for (size_t s = 0; s < choices.size(); ++s) {
    const std::vector<TokenId> tokens = RandomTokens(kPrompt + 1, 30 + s);
    const bool decodes =
        std::holds_alternative<QuestPattern>(choices[s].pattern);
    streams.emplace_back(tokens, static_cast<PageId>(8 * s));
    const int first = decodes ? kPrompt : 256;
    const bool is_dense =
        std::holds_alternative<DensePattern>(choices[s].pattern);
    const int count = decodes ? 1 : is_dense ? 100 : 128;
    wanted[s].assign(
        alone[s].logits.begin() + size_t(first) * TinyModel::kVocabSize,
        alone[s].logits.begin() +
            size_t(first + count) * TinyModel::kVocabSize);
    std::vector<float> before;
    StepPlan prompt;
    prompt.slices = {testing::NextSlice(streams[s], first, before)};
    prompt.slices[0].attention = &choices[s];
    ASSERT_TRUE(cuda_->Step(prompt).ok());
    streams[s].done = first;
    plan.slices.push_back(testing::NextSlice(streams[s], count, rows[s]));
    plan.slices[s].phase = decodes ? Phase::kDecode : Phase::kPrefill;
    plan.slices[s].attention = &choices[s];
  }
  const auto result = cuda_->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  for (size_t s = 0; s < choices.size(); ++s) {
    const Difference difference = Compare(rows[s], wanted[s]);
    std::cout << "slice " << s << ": mean difference " << difference.mean
              << ", worst " << difference.worst << "\n";
    EXPECT_LE(difference.mean, 0.004) << s;
    EXPECT_EQ(difference.far_rows.size(), 0) << s;
  }
}

// What a GPU cannot do is said of the slice, and nothing of it runs.
TEST_F(EngineCudaTest, OtherRulesAreRefusedByName) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 4, 2)));
  if (IsSkipped()) return;
  testing::Stream stream(RandomTokens(200, 13), 0);
  std::vector<float> rows;
  for (const PatternSpec& pattern :
       {PatternSpec(PeakWeightPattern()), PatternSpec(PageTopPPattern()),
        PatternSpec(MobaPattern()), PatternSpec(DeltaPattern())}) {
    const AttentionChoice choice = {pattern};
    StepSlice slice = testing::NextSlice(stream, 200, rows);
    slice.attention = &choice;
    const absl::Status status = testing::SliceStatus(*cuda_, slice);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(std::string(PatternName(pattern))));
  }
  const AttentionChoice quest = {Quest(192)};
  StepSlice slice = testing::NextSlice(stream, 200, rows);
  slice.phase = Phase::kDecode;
  slice.attention = &quest;
  EXPECT_EQ(testing::SliceStatus(*cuda_, slice).code(),
            absl::StatusCode::kUnimplemented);
  slice.attention = nullptr;
  EXPECT_TRUE(testing::SliceStatus(*cuda_, slice).ok());
}

TEST_F(EngineCudaTest, TokensAreTheHostSamplers) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 4, 2)));
  if (IsSkipped()) return;
  const std::vector<SamplingParams> kinds = {
      {.temperature = 0, .logprobs = 5},
      {.temperature = 1},
      {.temperature = 0.7f, .top_k = 20, .logprobs = 0},
      {.temperature = 1.3f, .top_p = 0.8f, .logprobs = 20},
      {.temperature = 1, .min_p = 0.1f, .repetition_penalty = 1.3f},
      {.temperature = 0.9f,
       .top_k = 50,
       .top_p = 0.9f,
       .presence_penalty = 0.5f,
       .frequency_penalty = 0.3f,
       .logit_bias = {{5, 2.0f}, {6, -1.0f}},
       .logprobs = 3},
      // More than the device reports.
      {.temperature = 1, .logprobs = 21}};
  int drawn = 0;
  for (int seed = 0; seed < 40; ++seed) {
    std::vector<SamplingParams> params = kinds;
    for (size_t i = 0; i < params.size(); ++i) params[i].seed = 100 * seed + i;
    const Sampled sampled = SampleTwice(params);
    for (size_t i = 0; i < params.size(); ++i) {
      const SliceResult& found = sampled.device[i];
      const SliceResult& wanted = sampled.host[i];
      ASSERT_TRUE(found.status.ok()) << found.status;
      EXPECT_EQ(found.token, wanted.token) << "seed " << seed << ", kind " << i;
      drawn += found.token != sampled.device[0].token;
      EXPECT_NEAR(found.chosen.logprob, wanted.chosen.logprob, 1e-4);
      ASSERT_EQ(found.alternatives.size(), wanted.alternatives.size());
      for (size_t a = 0; a < found.alternatives.size(); ++a) {
        EXPECT_EQ(found.alternatives[a].token, wanted.alternatives[a].token);
        EXPECT_NEAR(found.alternatives[a].logprob,
                    wanted.alternatives[a].logprob, 1e-4);
      }
    }
  }
  EXPECT_GT(drawn, 100);  // not always the most likely
}

TEST_F(EngineCudaTest, ParametersOutOfRangeFailTheirSliceAlone) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 4, 2)));
  if (IsSkipped()) return;
  const Sampled sampled = SampleTwice(
      {{.temperature = -1}, {.top_p = 0.5f}, {.logit_bias = {{9999, 1.0f}}}});
  for (const auto* results : {&sampled.host, &sampled.device}) {
    EXPECT_EQ((*results)[0].status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE((*results)[1].status.ok());
    EXPECT_EQ((*results)[2].status.code(), absl::StatusCode::kInvalidArgument);
  }
}

// Steps of output run as a graph after the second one: what they read changes,
// what they are does not. With and without lists that change in every step.
class SequencesTogetherTest : public EngineCudaTest,
                              public ::testing::WithParamInterface<int> {};

TEST_P(SequencesTogetherTest, AreThoseAlone) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 4, 2)));
  if (IsSkipped()) return;
  const int reuse_steps = GetParam();  // 0: dense
  const AttentionChoice quest = {Quest(128, std::max(reuse_steps, 1))};
  const AttentionChoice* const choice = reuse_steps == 0 ? nullptr : &quest;
  constexpr int kSequences = 5;
  constexpr int kSteps = 40;
  std::vector<testing::Stream> together;
  std::vector<std::vector<float>> wanted(kSequences);
  for (int s = 0; s < kSequences; ++s) {
    const int prompt = 70 * s + 30;
    const std::vector<TokenId> tokens = RandomTokens(prompt + kSteps, s);
    together.emplace_back(tokens, 8 * s);
    KeptBlocks kept;
    wanted[s] = Feed(*cpu_, tokens, prompt, choice, 0, &kept).logits;
  }
  std::vector<std::vector<float>> rows(kSequences);
  for (int s = 0; s < kSequences; ++s) {
    testing::RunAlone(*cuda_, together[s], 70 * s + 30);
  }
  std::vector<KeptBlocks> kept(kSequences);
  double worst = 0;
  int far_rows = 0;
  for (int step = 0; step < kSteps; ++step) {
    StepPlan plan;
    for (int s = 0; s < kSequences; ++s) {
      plan.slices.push_back(testing::NextSlice(together[s], 1, rows[s]));
      plan.slices.back().phase = Phase::kDecode;
      plan.slices.back().attention = choice;
      plan.slices.back().kept_blocks = &kept[s];
    }
    const auto result = cuda_->Step(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    for (int s = 0; s < kSequences; ++s) {
      const size_t at = size_t(together[s].done) * TinyModel::kVocabSize;
      const std::vector<float> row(
          wanted[s].begin() + at,
          wanted[s].begin() + at + TinyModel::kVocabSize);
      const Difference difference = Compare(rows[s], row);
      worst = std::max(worst, difference.worst);
      far_rows += static_cast<int>(difference.far_rows.size());
      ++together[s].done;
    }
  }
  std::cout << kSequences << " together, " << kSteps
            << " steps: worst difference " << worst << " of a row's range, "
            << far_rows << " rows far off\n";
  // Two pages may be nearer to each other than rounding can tell.
  EXPECT_LE(far_rows, choice == nullptr ? 0 : kSequences * kSteps / 50);
}

INSTANTIATE_TEST_SUITE_P(DenseAndChosen, SequencesTogetherTest,
                         ::testing::Values(0, 1, 16));

TEST_F(EngineCudaTest, ARowOfNaNIsNotSampled) {
  TinyModel model = ModelOf(64, 4, 2);
  model.poisoned_token = 11;
  model.tied = false;
  ASSERT_NO_FATAL_FAILURE(Load(model));
  if (IsSkipped()) return;
  std::vector<TokenId> tokens = RandomTokens(100, 3);
  for (TokenId& token : tokens) token += token == 11;
  std::vector<float> unused;
  testing::Stream good(tokens, 0);
  tokens[50] = 11;
  testing::Stream bad(tokens, 8);
  const SamplingParams params;
  StepPlan plan;
  plan.slices = {testing::NextSlice(good, 100, unused),
                 testing::NextSlice(bad, 100, unused)};
  for (StepSlice& slice : plan.slices) {
    slice.all_logits = {};
    slice.wants_token = true;
    slice.sampling = &params;
  }
  const auto result = cuda_->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->slices[0].status.ok());
  EXPECT_GE(result->slices[0].token, 0);
  EXPECT_EQ(result->slices[1].status.code(), absl::StatusCode::kInternal);
}

TEST_F(EngineCudaTest, ANaNFailsItsSliceAlone) {
  TinyModel model = ModelOf(64, 4, 2);
  model.poisoned_token = 11;
  model.tied = false;
  ASSERT_NO_FATAL_FAILURE(Load(model));
  if (IsSkipped()) return;
  std::vector<TokenId> tokens = RandomTokens(100, 3);
  for (TokenId& token : tokens) token += token == 11;
  testing::Stream good(tokens, 0);
  tokens[50] = 11;
  testing::Stream bad(tokens, 8);
  std::vector<float> good_rows;
  std::vector<float> bad_rows;
  StepPlan plan;
  plan.slices = {testing::NextSlice(good, 100, good_rows),
                 testing::NextSlice(bad, 100, bad_rows)};
  const auto result = cuda_->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->slices[0].status.ok());
  EXPECT_EQ(result->slices[1].status.code(), absl::StatusCode::kInternal);
  // And who gets its pages next does not see it.
  testing::Stream next(good.tokens, 8);
  const std::vector<float> again = testing::RunAlone(*cuda_, next, 100);
  EXPECT_LE(Compare(again, good_rows).worst, 1e-6);
}

}  // namespace
}  // namespace sparseserve
