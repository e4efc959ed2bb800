#include <random>
#include <vector>

#include "engine/model/sampler.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/cuda/sampling_reference.h"

namespace sparseserve {
namespace {

using cuda::ReferenceSample;
using cuda::SamplingCase;

constexpr TokenId kAnyToken[] = {0};

SamplingParams ParamsOf(const SamplingCase& row) {
  SamplingParams params;
  params.temperature = row.params.temperature;
  params.top_k = row.params.top_k;
  params.top_p = row.params.top_p;
  params.min_p = row.params.min_p;
  params.repetition_penalty = row.params.repetition_penalty;
  params.presence_penalty = row.params.presence_penalty;
  params.frequency_penalty = row.params.frequency_penalty;
  params.seed = row.params.seed;
  params.logprobs = row.params.logprobs;
  for (const cuda::TokenBias& pair : row.logit_bias) {
    params.logit_bias.emplace_back(pair.token, pair.bias);
  }
  return params;
}

void ExpectLogprobs(const SliceResult& result, const ReferenceSample& expected,
                    int logprobs) {
  if (logprobs < 0) return;
  EXPECT_EQ(result.chosen.token, result.token);
  EXPECT_NEAR(result.chosen.logprob, expected.logprobs[result.token], 1e-5);
  ASSERT_EQ(result.alternatives.size(), expected.alternatives.size());
  for (size_t i = 0; i < expected.alternatives.size(); ++i) {
    const TokenId token = expected.alternatives[i];
    EXPECT_EQ(result.alternatives[i].token, token);
    EXPECT_NEAR(result.alternatives[i].logprob, expected.logprobs[token], 1e-5);
  }
}

// The reference that the GPU's sampler is compared with says what Sampler says.
TEST(SamplerReferenceTest, SamplesLikeTheReferenceOfTheGpu) {
  std::mt19937 random(11);
  for (const int vocab_size : {7, 1000, 5000}) {
    Sampler sampler(vocab_size);
    int exact = 0;
    constexpr int kRows = 768;
    for (int number = 0; number < kRows; ++number) {
      SCOPED_TRACE(testing::Message() << vocab_size << ", row " << number);
      SamplingCase row = cuda::RandomSamplingCase(vocab_size, number, random);
      // It is the length of the output that numbers the draw here.
      row.params.draw_index = row.output.size();
      const ReferenceSample expected = cuda::SamplingReference(row).Sample();
      const SamplingParams params = ParamsOf(row);
      StepSlice slice;
      slice.tokens = kAnyToken;
      slice.wants_token = true;
      slice.sampling = &params;
      slice.prompt = row.prompt;
      slice.output = row.output;
      slice.banned = row.banned;
      SliceResult result;
      const absl::Status status = sampler.Sample(row.logits, slice, result);
      ASSERT_EQ(expected.status, cuda::SampleStatus::kOk);
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_TRUE(expected.near.contains(result.token))
          << result.token << " for " << expected.token;
      exact += result.token == expected.token ? 1 : 0;
      ExpectLogprobs(result, expected, params.logprobs);
    }
    // Others lie at a border within rounding.
    EXPECT_GE(exact, kRows - 4);
  }
}

}  // namespace
}  // namespace sparseserve
