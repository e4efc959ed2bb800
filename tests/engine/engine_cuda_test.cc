// The whole model on a GPU beside the same on a CPU in exact mode: every static
// pattern, prompts whole and in chunks, output, several sequences at once.
// Tests skip themselves where there is no GPU.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/pattern/attention_choice.h"
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
};

Difference Compare(const std::vector<float>& found,
                   const std::vector<float>& wanted) {
  Difference difference;
  const size_t vocab = TinyModel::kVocabSize;
  for (size_t row = 0; row < wanted.size() / vocab; ++row) {
    const auto begin = wanted.begin() + row * vocab;
    const auto [least, greatest] = std::minmax_element(begin, begin + vocab);
    const double range = *greatest - *least;
    for (size_t i = 0; i < vocab; ++i) {
      const double off = std::abs(found[row * vocab + i] - begin[i]) / range;
      difference.mean += off / static_cast<double>(wanted.size());
      if (!(off <= difference.worst)) {
        difference.worst = std::isnan(off) ? HUGE_VAL : off;
      }
    }
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
    EXPECT_LE(difference.worst, 0.04) << what;
    EXPECT_EQ(found.blocks.computed, wanted.blocks.computed) << what;
  }

  std::unique_ptr<Engine> cuda_;
  std::unique_ptr<Engine> cpu_;
};

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

// Steps of output run as a graph after the second one: what they read changes,
// what they are does not.
TEST_F(EngineCudaTest, SequencesTogetherAreThoseAlone) {
  ASSERT_NO_FATAL_FAILURE(Load(ModelOf(64, 4, 2)));
  if (IsSkipped()) return;
  constexpr int kSequences = 5;
  constexpr int kSteps = 40;
  std::vector<testing::Stream> together;
  std::vector<std::vector<float>> wanted(kSequences);
  for (int s = 0; s < kSequences; ++s) {
    const std::vector<TokenId> tokens = RandomTokens(30 * (s + 1) + kSteps, s);
    together.emplace_back(tokens, 8 * s);
    wanted[s] = Feed(*cpu_, tokens, 30 * (s + 1), nullptr).logits;
  }
  std::vector<std::vector<float>> rows(kSequences);
  for (int s = 0; s < kSequences; ++s) {
    testing::RunAlone(*cuda_, together[s], 30 * (s + 1));
  }
  double worst = 0;
  for (int step = 0; step < kSteps; ++step) {
    StepPlan plan;
    for (int s = 0; s < kSequences; ++s) {
      plan.slices.push_back(testing::NextSlice(together[s], 1, rows[s]));
      plan.slices.back().phase = Phase::kDecode;
    }
    const auto result = cuda_->Step(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    for (int s = 0; s < kSequences; ++s) {
      const size_t at = size_t(together[s].done) * TinyModel::kVocabSize;
      const std::vector<float> row(
          wanted[s].begin() + at,
          wanted[s].begin() + at + TinyModel::kVocabSize);
      worst = std::max(worst, Compare(rows[s], row).worst);
      ++together[s].done;
    }
  }
  std::cout << kSequences << " together, " << kSteps
            << " steps: worst difference " << worst << " of a row's range\n";
  EXPECT_LE(worst, 0.04);
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
