#include "engine/attention/attention_profiler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "engine/profile/head_measures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/profile_oracle.h"
#include "tests/testing/static_rules.h"

namespace sparseserve {
namespace {

using testing::OracleMeasures;

constexpr int kHeads = 4;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 24;
constexpr double kTolerance = 1e-5;

// A prompt of random queries, keys and values in layers that differ in their
// window alone.
struct Prompt {
  Prompt(int tokens, float query_scale, std::vector<int32_t> layer_windows,
         float softcap = 0)
      : tokens(tokens), windows(std::move(layer_windows)), softcap(softcap) {
    std::mt19937 random(tokens);
    std::normal_distribution<float> normal;
    pages.resize((tokens + kPageTokens - 1) / kPageTokens);
    std::iota(pages.rbegin(), pages.rend(), 0);
    // What no position owns is NaN, as a reused page's memory might be.
    keys.assign(pages.size() * kPageTokens * kKvHeads * kHeadDim,
                std::numeric_limits<float>::quiet_NaN());
    for (int position = 0; position < tokens; ++position) {
      for (int head = 0; head < kKvHeads; ++head) {
        for (int i = 0; i < kHeadDim; ++i)
          Key(position, head)[i] = normal(random);
      }
    }
    values = keys;
    queries.resize(static_cast<size_t>(tokens) * kHeads * kHeadDim);
    for (float& query : queries) query = query_scale * normal(random);
    ids.resize(tokens);
  }

  float* Key(int position, int kv_head) {
    const int64_t page = pages[position / kPageTokens];
    return keys.data() + ((page * kKvHeads + kv_head) * kPageTokens +
                          position % kPageTokens) *
                             kHeadDim;
  }

  double Score(int row, int head, int key) {
    const float* const query =
        queries.data() + (row * kHeads + head) * kHeadDim;
    const float* const other = Key(key, head / (kHeads / kKvHeads));
    double score = 0;
    for (int i = 0; i < kHeadDim; ++i) score += double{query[i]} * other[i];
    score *= double{scale};
    return softcap > 0 ? softcap * std::tanh(score / softcap) : score;
  }

  bool IsSeen(int layer, int row, int key) const {
    return windows[layer] == 0 || row - key < windows[layer];
  }

  // Runs the prompt in chunks of `chunk` tokens.
  void Run(Backend& backend, const PatternSpec& pattern, int chunk,
           AttentionProfile& profile) {
    AttentionPlan plan({.layers = static_cast<int32_t>(windows.size()),
                        .heads = kHeads,
                        .kv_heads = kKvHeads,
                        .layer_windows = windows});
    AttentionProfiler profiler(backend, kKvHeads);
    for (int begin = 0; begin < tokens; begin += chunk) {
      StepSlice slice;
      slice.tokens = absl::MakeConstSpan(ids).subspan(begin, chunk);
      slice.first_position = begin;
      slice.pages = pages;
      slice.prompt = ids;
      slice.profile = &profile;
      plan.Build({{&slice, pattern}});
      for (int32_t layer = 0; layer < std::ssize(windows); ++layer) {
        RunLayer(backend, plan, layer, profiler);
      }
    }
  }

  void RunLayer(Backend& backend, const AttentionPlan& plan, int32_t layer,
                AttentionProfiler& profiler) {
    const int64_t rows = plan.rows();
    const int64_t width = kHeads * kHeadDim;
    std::vector<float> output(rows * width), lse(rows * kHeads);
    std::vector<float> dense_output(output), dense_lse(lse);
    AttentionArgs args;
    args.queries = ConstMatrixView(queries.data() + plan.positions()[0] * width,
                                   rows, width);
    args.heads = kHeads;
    args.kv = {reinterpret_cast<std::byte*>(keys.data()),
               reinterpret_cast<std::byte*>(values.data()),
               DType::kF32,
               static_cast<int32_t>(pages.size()),
               kKvHeads,
               kHeadDim};
    args.pages = plan.pages();
    args.layout = &plan.layout(layer);
    args.scale = scale;
    args.softcap = softcap;
    args.output = {output.data(), rows, width};
    args.lse = lse.data();
    backend.Attention(args);
    AttentionArgs dense = args;
    dense.output = {dense_output.data(), rows, width};
    dense.lse = dense_lse.data();
    profiler.Measure(layer, plan, args, dense);
  }

  const int tokens;
  const std::vector<int32_t> windows;
  const float softcap;
  const float scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  std::vector<PageId> pages;
  std::vector<float> keys, values;  // [pages][kv_heads][64][head_dim]
  std::vector<float> queries;       // [tokens, heads * head_dim]
  std::vector<TokenId> ids;
};

AttentionProfile::Shape ShapeOf(const Prompt& prompt) {
  return {static_cast<int32_t>(prompt.windows.size()), kHeads, kKvHeads,
          prompt.tokens};
}

testing::WeightMatrix MatrixOf(Prompt& prompt, int layer, int head) {
  std::vector<std::vector<double>> scores(prompt.tokens);
  for (int row = 0; row < prompt.tokens; ++row) {
    for (int key = 0; key <= row; ++key) {
      scores[row].push_back(prompt.Score(row, head, key));
    }
  }
  return testing::Weights(
      prompt.tokens, [&](int row, int key) { return scores[row][key]; },
      [&](int row, int key) { return prompt.IsSeen(layer, row, key); });
}

// [tokens][key]: what a row sees by a pattern's rule.
std::vector<std::vector<bool>> SeenBy(const PatternSpec& pattern, int tokens) {
  std::vector<std::vector<bool>> seen(tokens, std::vector<bool>(tokens));
  for (int row = 0; row < tokens; ++row) {
    for (const auto& key :
         testing::StaticRuleKeys(pattern, {row, false, tokens})) {
      seen[row][key.key] = true;
    }
  }
  return seen;
}

void ExpectAllNear(const std::vector<double>& found,
                   const std::vector<double>& wanted) {
  EXPECT_THAT(found,
              ::testing::Pointwise(::testing::DoubleNear(kTolerance), wanted));
}

void ExpectMeasures(const HeadMeasures& found, const OracleMeasures& wanted,
                    int tokens) {
  EXPECT_NEAR(found.entropy, wanted.entropy, kTolerance);
  EXPECT_NEAR(found.relative_entropy, wanted.relative_entropy, kTolerance);
  // These grow with the prompt.
  EXPECT_NEAR(found.effective_keys, wanted.effective_keys, kTolerance * tokens);
  EXPECT_NEAR(found.mean_distance, wanted.mean_distance, kTolerance * tokens);
  EXPECT_NEAR(found.mean_distance_without_sink,
              wanted.mean_distance_without_sink, kTolerance * tokens);
  EXPECT_EQ(found.median_distance, wanted.median_distance);
  EXPECT_EQ(found.distance_90, wanted.distance_90);
  ExpectAllNear(found.locality, wanted.locality);
  EXPECT_NEAR(found.near_share, wanted.near_share, kTolerance);
  EXPECT_NEAR(found.sink_1, wanted.sink_1, kTolerance);
  EXPECT_NEAR(found.sink_4, wanted.sink_4, kTolerance);
  EXPECT_NEAR(found.sink_64, wanted.sink_64, kTolerance);
  EXPECT_NEAR(found.vertical_share, wanted.vertical_share, kTolerance);
  EXPECT_NEAR(found.slash_share, wanted.slash_share, kTolerance);
  ExpectAllNear(found.block_recall, wanted.block_recall);
  EXPECT_NEAR(found.recall, wanted.recall, kTolerance);
  EXPECT_NEAR(found.low_recall_share, wanted.low_recall_share, 1e-12);
}

class AttentionProfilerTest : public BackendTest {
 protected:
  // Every head of every layer against the oracle.
  void ExpectOracle(Prompt& prompt, const PatternSpec& pattern, int chunk,
                    int max_blocks = 32) {
    AttentionProfile profile(ShapeOf(prompt), {.max_blocks = max_blocks});
    prompt.Run(backend(), pattern, chunk, profile);
    const std::vector<int32_t> blocks(profile.blocks().begin(),
                                      profile.blocks().end());
    const auto visited = SeenBy(pattern, prompt.tokens);
    for (int layer = 0; layer < std::ssize(prompt.windows); ++layer) {
      for (int head = 0; head < kHeads; ++head) {
        SCOPED_TRACE(::testing::Message()
                     << "layer " << layer << ", head " << head);
        ExpectMeasures(
            MeasuresOf(profile, layer, head),
            testing::MeasureMatrix(
                MatrixOf(prompt, layer, head), blocks,
                [&](int row, int key) {
                  return prompt.IsSeen(layer, row, key);
                },
                [&](int row, int key) -> bool { return visited[row][key]; }),
            prompt.tokens);
      }
    }
  }
};

TEST_P(AttentionProfilerTest, DensePromptsEqualTheOracle) {
  for (const int tokens : {1, 63, 64, 65, 200, 333}) {
    SCOPED_TRACE(tokens);
    Prompt prompt(tokens, 1, {0});
    ExpectOracle(prompt, DensePattern(), /*chunk=*/512);
  }
}

TEST_P(AttentionProfilerTest, PeakedAndCappedWeightsEqualTheOracle) {
  Prompt peaked(333, 8, {0});
  ExpectOracle(peaked, DensePattern(), /*chunk=*/512);
  Prompt capped(200, 8, {0}, /*softcap=*/5);
  ExpectOracle(capped, DensePattern(), /*chunk=*/512);
}

TEST_P(AttentionProfilerTest, LayersWithAWindowSeeNoMore) {
  for (const int window : {1, 65, 200}) {
    SCOPED_TRACE(window);
    Prompt prompt(300, 2, {0, window});
    ExpectOracle(prompt, DensePattern(), /*chunk=*/512);
  }
}

TEST_P(AttentionProfilerTest, ChunksAddUpToTheWholePrompt) {
  Prompt prompt(333, 2, {0, 100});
  ExpectOracle(prompt, DensePattern(), /*chunk=*/128);
}

TEST_P(AttentionProfilerTest, RecallIsOfTheKeysThatThePatternShows) {
  Prompt prompt(333, 2, {0});
  ExpectOracle(prompt, SinkWindowPattern{.sink_tokens = 4, .window_tokens = 64},
               /*chunk=*/128);
}

TEST_P(AttentionProfilerTest, FewBlocksAreASampleOfThePrompt) {
  Prompt prompt(500, 2, {0});
  ExpectOracle(prompt, DensePattern(), /*chunk=*/192, /*max_blocks=*/3);
}

TEST_P(AttentionProfilerTest, HeaviestKeysOfQueriesAreTheMatrixs) {
  Prompt prompt(300, 2, {0, 70});
  // In the block that is not sampled, in one that is, twice, and the last.
  const std::vector<int32_t> queries = {2, 100, 101, 299};
  AttentionProfile profile(ShapeOf(prompt),
                           {.queries = queries, .top_keys = 5});
  prompt.Run(backend(), SlidingWindowPattern{.window_tokens = 32},
             /*chunk=*/128, profile);
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < kHeads; ++head) {
      const testing::WeightMatrix weights = MatrixOf(prompt, layer, head);
      for (int q = 0; q < std::ssize(queries); ++q) {
        const std::vector<double>& row = weights[queries[q]];
        std::vector<int> order(row.size());
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(),
                  [&row](int a, int b) { return row[a] > row[b]; });
        const absl::Span<const AttendedKey> found =
            profile.attended(q, layer, head);
        ASSERT_EQ(found.size(), 5);
        for (int k = 0; k < 5; ++k) {
          if (k >= std::ssize(row)) {
            EXPECT_EQ(found[k].position, -1);
            continue;
          }
          EXPECT_EQ(found[k].position, order[k]) << "query " << queries[q];
          EXPECT_NEAR(found[k].weight, row[order[k]], kTolerance);
        }
      }
    }
  }
}

TEST_P(AttentionProfilerTest, CountsBlocksByKvHead) {
  Prompt prompt(300, 1, {0});
  AttentionProfile profile(ShapeOf(prompt), {});
  prompt.Run(backend(), SlidingWindowPattern{.window_tokens = 64},
             /*chunk=*/128, profile);
  for (int head = 0; head < kHeads; ++head) {
    // Five query blocks: the first visits its own, the others two.
    EXPECT_EQ(MeasuresOf(profile, 0, head).density, 9.0 / 15);
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, AttentionProfilerTest,
                         ::testing::ValuesIn(SimdPathsToTest()));

}  // namespace
}  // namespace sparseserve
