#include "engine/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/model/philox.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

constexpr TokenId kAnyToken[] = {0};

// A slice that holds its own parameters.
struct Case {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<TokenId> prompt, output, banned;

  StepSlice Slice() const {
    StepSlice slice;
    slice.tokens = kAnyToken;
    slice.wants_token = true;
    slice.sampling = &params;
    slice.prompt = prompt;
    slice.output = output;
    slice.banned = banned;
    return slice;
  }
};

std::vector<float> RandomLogits(int size, uint32_t seed, float spread = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

SliceResult MustSample(const Case& c) {
  Sampler sampler(static_cast<int32_t>(c.logits.size()));
  SliceResult result;
  const absl::Status status = sampler.Sample(c.logits, c.Slice(), result);
  EXPECT_TRUE(status.ok()) << status;
  return result;
}

absl::Status SampleStatus(const Case& c) {
  Sampler sampler(static_cast<int32_t>(c.logits.size()));
  SliceResult result;
  return sampler.Sample(c.logits, c.Slice(), result);
}

// The documented operations one by one, each over the whole vocabulary and
// fully sorted: the probability of each token.
std::vector<double> NaiveDistribution(const Case& c) {
  const SamplingParams& p = c.params;
  const int size = static_cast<int>(c.logits.size());
  std::vector<double> x(c.logits.begin(), c.logits.end());
  const auto count = [](const std::vector<TokenId>& tokens, TokenId token) {
    return std::count(tokens.begin(), tokens.end(), token);
  };
  for (TokenId t = 0; t < size; ++t) {
    if (count(c.prompt, t) + count(c.output, t) > 0) {
      x[t] =
          x[t] > 0 ? x[t] / p.repetition_penalty : x[t] * p.repetition_penalty;
    }
    const int in_output = static_cast<int>(count(c.output, t));
    if (in_output > 0) x[t] -= p.presence_penalty;
    x[t] -= p.frequency_penalty * in_output;
    for (const auto& [token, bias] : p.logit_bias) {
      if (token == t) x[t] += bias;
    }
    if (count(c.banned, t) > 0) x[t] = -INFINITY;
  }
  std::vector<int> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return x[a] > x[b]; });
  std::vector<double> probability(size, 0);
  if (p.temperature == 0) {
    probability[order[0]] = 1;
    return probability;
  }
  std::vector<double> sorted;
  for (const int t : order) {
    sorted.push_back(std::exp((x[t] - x[order[0]]) / p.temperature));
  }
  if (p.top_k > 0 && p.top_k < size) sorted.resize(p.top_k);
  const double before_top_p = std::accumulate(sorted.begin(), sorted.end(), 0.);
  double passed = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (passed >= p.top_p * before_top_p && p.top_p < 1) sorted[i] = 0;
    passed += sorted[i];
  }
  for (double& weight : sorted) {
    if (weight < p.min_p) weight = 0;
  }
  const double total = std::accumulate(sorted.begin(), sorted.end(), 0.);
  for (size_t i = 0; i < sorted.size(); ++i) {
    probability[order[i]] = sorted[i] / total;
  }
  return probability;
}

// Draws with successive seeds and compares the counts with `wanted`.
void ExpectDraws(Case c, const std::vector<double>& wanted, int draws) {
  Sampler sampler(static_cast<int32_t>(c.logits.size()));
  std::vector<int> counts(wanted.size(), 0);
  for (int i = 0; i < draws; ++i) {
    c.params.seed = i;
    SliceResult result;
    ASSERT_TRUE(sampler.Sample(c.logits, c.Slice(), result).ok());
    ++counts[result.token];
  }
  // Cells of less than five expected draws are pooled.
  double chi_square = 0, pooled_expected = 0;
  int pooled = 0, cells = 0;
  const auto add = [&](double expected, int count) {
    chi_square += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (size_t t = 0; t < wanted.size(); ++t) {
    const double expected = wanted[t] * draws;
    if (wanted[t] == 0) {
      EXPECT_EQ(counts[t], 0) << "token " << t;
    } else if (expected < 5) {
      pooled_expected += expected;
      pooled += counts[t];
    } else {
      add(expected, counts[t]);
    }
  }
  if (pooled_expected > 5) add(pooled_expected, pooled);
  // Wilson and Hilferty's approximation of the 99.9 % quantile.
  const double freedom = std::max(cells - 1, 1);
  const double limit =
      freedom *
      std::pow(1 - 2 / (9 * freedom) + 3.09 * std::sqrt(2 / (9 * freedom)), 3);
  EXPECT_LT(chi_square, limit) << cells << " cells";
}

struct NamedCase {
  std::string name;
  Case c;

  friend void PrintTo(const NamedCase& named, std::ostream* out) {
    *out << named.name;
  }
};

std::vector<NamedCase> DistributionCases() {
  const std::vector<float> logits = RandomLogits(200, 1);
  std::vector<NamedCase> cases;
  const auto add = [&](const std::string& name) -> Case& {
    cases.push_back({name, {.logits = logits}});
    return cases.back().c;
  };
  add("plain");
  add("hot").params.temperature = 2.5f;
  add("cold").params.temperature = 0.3f;
  add("top_k").params.top_k = 7;
  add("top_k_1").params.top_k = 1;
  add("top_k_all").params.top_k = 200;
  add("top_p").params.top_p = 0.8f;
  add("top_p_tiny").params.top_p = 1e-6f;
  add("top_p_nearly_all").params.top_p = 0.9999f;
  add("min_p").params.min_p = 0.05f;
  add("min_p_1").params.min_p = 1;
  add("greedy").params.temperature = 0;
  Case& filters = add("all_filters");
  filters.params = {
      .temperature = 1.5f, .top_k = 40, .top_p = 0.9f, .min_p = 0.02f};
  Case& penalties = add("penalties");
  penalties.params = {.repetition_penalty = 1.3f,
                      .presence_penalty = 0.7f,
                      .frequency_penalty = 0.4f};
  for (TokenId t = 0; t < 120; ++t) penalties.prompt.push_back(t);
  for (TokenId t = 60; t < 160; ++t) {
    penalties.output.insert(penalties.output.end(), t % 4, t);
  }
  Case& rewards = add("negative_penalties");
  rewards.params = {.repetition_penalty = 0.8f,
                    .presence_penalty = -0.5f,
                    .frequency_penalty = -0.2f};
  rewards.output = {1, 2, 2, 3, 3, 3};
  Case& bias = add("bias");
  bias.params.logit_bias = {{3, 8.0f}, {5, -100.0f}, {3, 1.0f}, {199, 7.5f}};
  Case& banned = add("banned");
  for (TokenId t = 0; t < 190; ++t) banned.banned.push_back(t);
  Case& one_left = add("one_left");
  for (TokenId t = 0; t < 200; ++t) {
    if (t != 77) one_left.banned.push_back(t);
  }
  return cases;
}

class SamplerDistributionTest : public ::testing::TestWithParam<NamedCase> {};

TEST_P(SamplerDistributionTest, DrawsFollowTheDocumentedOperations) {
  ExpectDraws(GetParam().c, NaiveDistribution(GetParam().c), 20000);
}

INSTANTIATE_TEST_SUITE_P(Parameters, SamplerDistributionTest,
                         ::testing::ValuesIn(DistributionCases()),
                         [](const auto& instance) {
                           return instance.param.name;
                         });

TEST(SamplerTest, LargeVocabulariesKeepTheSameSetAsAFullSort) {
  // Large enough that the sort of the most likely proceeds in chunks.
  for (const float p : {0.1f, 0.5f, 0.9f, 0.99f}) {
    Case c{.logits = RandomLogits(20000, 3, 0.5f)};
    c.params.top_p = p;
    const std::vector<double> wanted = NaiveDistribution(c);
    Sampler sampler(20000);
    for (int i = 0; i < 300; ++i) {
      c.params.seed = i;
      SliceResult result;
      ASSERT_TRUE(sampler.Sample(c.logits, c.Slice(), result).ok());
      ASSERT_GT(wanted[result.token], 0) << "top_p " << p;
    }
  }
}

TEST(SamplerTest, GreedyTakesTheLowestIdAmongEquals) {
  Case c{.logits = {1, 5, 3, 5, 5}};
  c.params.temperature = 0;
  EXPECT_EQ(MustSample(c).token, 1);
  c.banned = {1};
  EXPECT_EQ(MustSample(c).token, 3);
}

TEST(SamplerTest, TopKPrefersTheLowestIdsAmongEquals) {
  Case c{.logits = {5, 1, 5, 5, 5}};
  c.params.top_k = 2;
  ExpectDraws(c, {0.5, 0, 0.5, 0, 0}, 1000);
}

TEST(SamplerTest, TinyTemperatureIsGreedy) {
  Case c{.logits = {1, 2, 1.999f, -3}};
  for (const float temperature :
       {1e-6f, 1e-30f, std::numeric_limits<float>::min(),
        std::numeric_limits<float>::denorm_min()}) {
    c.params.temperature = temperature;
    EXPECT_EQ(MustSample(c).token, 1) << temperature;
  }
}

TEST(SamplerTest, ExtremeLogitsStayInRange) {
  constexpr float kMax = std::numeric_limits<float>::max();
  Case c{.logits = {-kMax, kMax, 0, -kMax}};
  c.params.repetition_penalty = 0.01f;
  c.prompt = {0, 1, 2, 3};
  EXPECT_EQ(MustSample(c).token, 1);
}

TEST(SamplerTest, DrawDependsOnSeedAndOutputIndexAlone) {
  Case c{.logits = RandomLogits(500, 9)};
  c.params.seed = 42;
  std::vector<TokenId> drawn;
  for (int i = 0; i < 50; ++i) {
    c.output.assign(i, 0);
    c.prompt.assign(i % 3, 1);
    drawn.push_back(MustSample(c).token);
  }
  // Again in another order, from one sampler that has served others between.
  Sampler sampler(500);
  for (int i = 49; i >= 0; --i) {
    Case other{.logits = RandomLogits(500, i)};
    other.params = {.top_k = 3, .repetition_penalty = 2, .logprobs = 2};
    other.output.assign(i, 7);
    SliceResult result;
    ASSERT_TRUE(sampler.Sample(other.logits, other.Slice(), result).ok());
    c.output.assign(i, 0);
    ASSERT_TRUE(sampler.Sample(c.logits, c.Slice(), result).ok());
    EXPECT_EQ(result.token, drawn[i]);
  }
}

TEST(SamplerTest, DrawIsTheInverseOfTheDistributionInIdOrder) {
  Case c{.logits = {0, 0, 0, 0}};
  for (int i = 0; i < 20; ++i) {
    c.output.assign(i, 0);
    c.params.seed = 5;
    EXPECT_EQ(MustSample(c).token,
              static_cast<TokenId>(PhiloxUniform(5, i) * 4));
  }
}

TEST(SamplerTest, LogprobsAreOfTheRowAsItCame) {
  Case c{.logits = RandomLogits(100, 4)};
  c.params = {.temperature = 0.5f,
              .top_k = 3,
              .repetition_penalty = 2,
              .logit_bias = {{9, 50.0f}},
              .logprobs = 4};
  c.prompt = {1, 2, 3};
  const SliceResult result = MustSample(c);
  ASSERT_EQ(result.token, 9);

  double sum = 0;
  for (const float logit : c.logits) sum += std::exp(double{logit});
  EXPECT_EQ(result.chosen.token, 9);
  EXPECT_NEAR(result.chosen.logprob, c.logits[9] - std::log(sum), 1e-6);
  std::vector<TokenId> order(100);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    return c.logits[a] > c.logits[b];
  });
  ASSERT_EQ(result.alternatives.size(), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(result.alternatives[i].token, order[i]);
    EXPECT_NEAR(result.alternatives[i].logprob,
                c.logits[order[i]] - std::log(sum), 1e-6);
  }
}

TEST(SamplerTest, LogprobsOfHugeLogitsDoNotOverflow) {
  Case c{.logits = {3e38f, 3e38f, -3e38f}};
  c.params = {.temperature = 0, .logprobs = 3};
  const SliceResult result = MustSample(c);
  EXPECT_NEAR(result.chosen.logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(result.alternatives[2].token, 2);
}

TEST(SamplerTest, ReportsNoLogprobsUnlessAsked) {
  Case c{.logits = {1, 2}};
  SliceResult result = MustSample(c);
  EXPECT_EQ(result.chosen.logprob, 0);
  EXPECT_TRUE(result.alternatives.empty());
  c.params.logprobs = 0;
  result = MustSample(c);
  EXPECT_LT(result.chosen.logprob, 0);
  EXPECT_TRUE(result.alternatives.empty());
}

TEST(SamplerTest, AllTokensBannedIsAnError) {
  Case c{.logits = {1, 2}, .banned = {1, 0}};
  EXPECT_TRUE(absl::IsFailedPrecondition(SampleStatus(c)));
}

TEST(SamplerTest, LogitThatIsNotFiniteIsAnErrorAndHarmsNoLaterCall) {
  Sampler sampler(3);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    Case c{.logits = {1, bad, 2}};
    SliceResult result;
    EXPECT_TRUE(absl::IsInternal(sampler.Sample(c.logits, c.Slice(), result)));
    Case good{.logits = {1, 100, 2}};
    EXPECT_TRUE(sampler.Sample(good.logits, good.Slice(), result).ok());
    EXPECT_EQ(result.token, 1);
  }
}

TEST(SamplerTest, ParametersOutOfRangeAreNamed) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<std::string, SamplingParams>> table = {
      {"temperature", {.temperature = -0.1f}},
      {"temperature", {.temperature = kNan}},
      {"temperature", {.temperature = INFINITY}},
      {"top_k", {.top_k = -1}},
      {"top_p", {.top_p = 0}},
      {"top_p", {.top_p = 1.1f}},
      {"min_p", {.min_p = -0.1f}},
      {"min_p", {.min_p = kNan}},
      {"repetition_penalty", {.repetition_penalty = 0}},
      {"repetition_penalty", {.repetition_penalty = -1}},
      {"presence_penalty", {.presence_penalty = INFINITY}},
      {"frequency_penalty", {.frequency_penalty = kNan}},
      {"logit_bias", {.logit_bias = {{3, 1.0f}}}},
      {"logit_bias", {.logit_bias = {{-1, 1.0f}}}},
      {"logit_bias", {.logit_bias = {{0, INFINITY}}}},
      {"logprobs", {.logprobs = 4}},
  };
  for (const auto& [name, params] : table) {
    const absl::Status status =
        SampleStatus({.logits = {1, 2, 3}, .params = params});
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST(SamplerTest, TokensOutsideTheVocabularyAreErrors) {
  EXPECT_TRUE(
      absl::IsInvalidArgument(SampleStatus({.logits = {1, 2}, .prompt = {2}})));
  EXPECT_TRUE(absl::IsInvalidArgument(
      SampleStatus({.logits = {1, 2}, .output = {-1}})));
  EXPECT_TRUE(
      absl::IsInvalidArgument(SampleStatus({.logits = {1, 2}, .banned = {5}})));
}

}  // namespace
}  // namespace sparseserve
