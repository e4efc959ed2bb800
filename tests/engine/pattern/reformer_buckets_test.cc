#include "engine/pattern/reformer_buckets.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/attention/attended_passes.h"
#include "tests/testing/pattern_golden.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PatternGolden;
using testing::Rows;

// Buckets of the module with hash_seed 7, to the last of them: by the draws of
// torch, whose order and rounding no test could guess.
TEST(ReformerBucketsTest, AreThoseOfTransformers) {
  int64_t compared = 0;
  for (const char* system : {"reformer_lsh", "reformer_blocks"}) {
    const PatternGolden golden(system);
    for (const PatternGolden::Case& from : golden.cases()) {
      if (!golden.Has(from, "buckets")) continue;
      SCOPED_TRACE(from.name());
      const std::vector<Rows> q = golden.Heads(from, "q");
      // As make_patterns.py configures them.
      const bool has_factors = from.name() == "factors";
      const ReformerHash hash = {.heads = static_cast<int32_t>(q.size()),
                                 .head_dim = static_cast<int32_t>(q[0].columns),
                                 .rounds = from.parameters.at("rounds"),
                                 .factors = has_factors
                                                ? std::vector<int32_t>{2, 4}
                                                : std::vector<int32_t>{4}};
      const std::vector<float> values = Interleaved(q);
      const std::vector<int32_t> buckets =
          ReformerBuckets({}, hash,
                          {.is_real = from.real(),
                           .vectors = {values.data(), q[0].count,
                                       hash.heads * int64_t{hash.head_dim}},
                           .rotations = DrawReformerRotations(hash, 7).value()})
              .value();
      std::vector<int32_t> wanted;
      for (const auto& head : golden.Indices(from, "buckets")) {
        for (const auto& round : head) {
          wanted.insert(wanted.end(), round.begin(), round.end());
        }
      }
      EXPECT_EQ(buckets, wanted);
      compared += static_cast<int64_t>(wanted.size());
    }
  }
  EXPECT_GT(compared, 2000);
}

TEST(ReformerBucketsTest, AreTheGreatestOfTurnedElementsAndTheirNegatives) {
  const ReformerHash hash = {
      .heads = 1, .head_dim = 2, .rounds = 2, .factors = {4}};
  // Element 0 turns to (1, 0) in round 0 and to (0, -1) in round 1; element 1
  // to (0, 1) and to (2, 0).
  const std::vector<double> rotations = {1, 0, 0, -1, 0, 1, 2, 0};
  const std::vector<float> vectors = {3, 1, 1, 3, -3, 1, 0, 0, 5, 5};
  const auto buckets = [&](const std::vector<bool>& real) {
    return ReformerBuckets({}, hash, {real, {vectors.data(), 5, 2}, rotations})
        .value();
  };
  // Turned to (3, 1), (1, 3), (-3, 1), (0, 0), (5, 5), then to (2, -3),
  // (6, -1), (2, 3), (0, 0), (10, -5): of equals the first.
  EXPECT_THAT(buckets({true, true, true, true, true}),
              ElementsAre(0, 1, 2, 0, 0, 7, 4, 5, 4, 4));
  EXPECT_THAT(buckets({true, true, true, true, false}),
              ElementsAre(0, 1, 2, 0, 4, 8, 5, 6, 5, 9));
}

TEST(ReformerBucketsTest, FactorsFollowTheNumberOfChunks) {
  const auto factors = [](int32_t tokens, int32_t chunk, int32_t most) {
    return ReformerFactors({.chunk_tokens = chunk}, tokens, most).value();
  };
  EXPECT_THAT(factors(64, 64, 4096), ElementsAre(2));
  EXPECT_THAT(factors(4096, 64, 4096), ElementsAre(128));
  // More than twice the chunk.
  EXPECT_THAT(factors(8192, 64, 8192), ElementsAre(16, 16));
  EXPECT_THAT(factors(16384, 64, 16384), ElementsAre(16, 32));
  // 96 chunks are counted as 64.
  EXPECT_THAT(factors(96 * 64, 64, 8192), ElementsAre(128));
  EXPECT_EQ(ReformerFactors({.chunk_tokens = 64}, 63, 4096).status().message(),
            "reformer_lsh: 63 tokens in chunks of 64, of at most 4096; "
            "allowed: at least a chunk, at most 1048576 and what the model "
            "has");
  EXPECT_THAT(ReformerFactors({}, 4096, 2048).status().message(),
              HasSubstr("4096 tokens"));
}

TEST(ReformerBucketsTest, DrawsAreNormalAndFollowTheirSeed) {
  ReformerHash hash = {
      .heads = 4, .head_dim = 25, .rounds = 3, .factors = {10, 4}};
  const std::vector<double> draws = DrawReformerRotations(hash, 1).value();
  ASSERT_EQ(draws.size(), 4 * 25 * 3 * 7);
  double sum = 0, squares = 0;
  for (const double draw : draws) {
    sum += draw;
    squares += draw * draw;
  }
  const auto count = static_cast<double>(draws.size());
  EXPECT_NEAR(sum / count, 0, 4 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 1, 4 * std::sqrt(2 / count));
  EXPECT_EQ(draws, DrawReformerRotations(hash, 1).value());
  EXPECT_NE(draws, DrawReformerRotations(hash, 2).value());
  hash = {.heads = 1, .head_dim = 3, .rounds = 1, .factors = {2}};
  EXPECT_EQ(DrawReformerRotations(hash, 1).value().size(), 3);
}

TEST(ReformerBucketsTest, RefuseWhatDoesNotFit) {
  const ReformerHash hash = {
      .heads = 1, .head_dim = 2, .rounds = 1, .factors = {2}};
  const auto draw_error = [](const ReformerHash& wrong) {
    return std::string(DrawReformerRotations(wrong, 1).status().message());
  };
  ReformerHash wrong = hash;
  wrong.factors = {};
  EXPECT_EQ(draw_error(wrong),
            "reformer_lsh: the number of factors is 0; allowed: 1 to 8");
  wrong.factors = {3};
  EXPECT_EQ(draw_error(wrong),
            "reformer_lsh: a factor of 3 buckets; allowed: even, 2 to "
            "1073741824");
  wrong.factors = {1 << 16, 1 << 16};
  EXPECT_EQ(draw_error(wrong),
            "reformer_lsh: a factor of 65536 buckets; allowed: even, 2 to "
            "16384");
  wrong = hash;
  wrong.rounds = 0;
  EXPECT_EQ(draw_error(wrong),
            "reformer_lsh: rounds is 0; allowed: 1 to 1048576");
  wrong = {
      .heads = 1024, .head_dim = 1024, .rounds = 1 << 10, .factors = {1 << 18}};
  EXPECT_EQ(draw_error(wrong),
            "reformer_lsh: 1024 rounds of 137438953472 random numbers; "
            "allowed: 67108864 in all");

  const std::vector<float> vectors = {1, 2, 3, NAN, 5, 6};
  const auto error = [&](const ReformerHash& of, int64_t rows,
                         size_t rotations) {
    return std::string(ReformerBuckets({}, of,
                                       {std::vector<bool>(rows, true),
                                        {vectors.data(), 3, 2},
                                        std::vector<double>(rotations)})
                           .status()
                           .message());
  };
  EXPECT_EQ(error(hash, 3, 2),
            "reformer_lsh: the vector of token 1 has a nan, not finite");
  EXPECT_EQ(error(hash, 3, 1), "reformer_lsh: rotations of 1 elements, not 2");
  EXPECT_EQ(error(hash, 2, 2), "reformer_lsh: vectors are 3 x 2, not 2 x 2");
  EXPECT_THAT(error(hash, 0, 2), HasSubstr("a sequence of 0 tokens"));
  wrong = hash;
  wrong.rounds = 1 << 19;
  EXPECT_EQ(error(wrong, 3, 2),
            "reformer_lsh: 524288 rounds; allowed: 1 to 349525 of 3 tokens");
  // Nothing of this size is read: it is refused for the time it would take.
  wrong = {.heads = 1024, .head_dim = 1024, .rounds = 1, .factors = {128}};
  EXPECT_EQ(error(wrong, 1025, 2),
            "reformer_lsh: 1025 tokens and 67108864 random numbers; allowed: "
            "68719476736 of their product");
}

TEST(ReformerBucketsTest, RefuseRotationsThatAreNotFinite) {
  const std::vector<float> vectors = {1, 2};
  for (const double bad : {double{NAN}, double{INFINITY}}) {
    EXPECT_THAT(
        ReformerBuckets(
            {}, {.heads = 1, .head_dim = 2, .rounds = 1, .factors = {2}},
            {{true}, {vectors.data(), 1, 2}, {1, bad}})
            .status()
            .message(),
        HasSubstr(std::isnan(bad)
                      ? "reformer_lsh: random number 1 is nan, not finite"
                      : "reformer_lsh: random number 1 is inf, not finite"));
  }
}

}  // namespace
}  // namespace sparseserve
