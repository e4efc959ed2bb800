#include "engine/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/model/philox.h"

namespace sparseserve {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();
// Past this no penalty or bias has a use, and sums of them stay finite.
constexpr float kLargestChange = 1e6f;

absl::Status CheckRange(const char* name, float value, float least,
                        float greatest) {
  if (value >= least && value <= greatest) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      name, " is ", value, ", must be from ", least, " to ", greatest));
}

absl::Status CheckTokens(const char* name, absl::Span<const TokenId> tokens,
                         int32_t vocab_size) {
  for (const TokenId token : tokens) {
    if (token < 0 || token >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " names token ", token,
                       ", the vocabulary has ids 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const StepSlice& slice, int32_t vocab_size) {
  const SamplingParams& params = *slice.sampling;
  constexpr float kMax = std::numeric_limits<float>::max();
  RETURN_IF_ERROR(CheckRange("temperature", params.temperature, 0, kMax));
  if (params.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", params.top_k, ", must be 0 or more"));
  }
  RETURN_IF_ERROR(CheckRange("top_p", params.top_p,
                             std::numeric_limits<float>::denorm_min(), 1));
  RETURN_IF_ERROR(CheckRange("min_p", params.min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", params.repetition_penalty,
                             1 / kLargestChange, kLargestChange));
  RETURN_IF_ERROR(CheckRange("presence_penalty", params.presence_penalty,
                             -kLargestChange, kLargestChange));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", params.frequency_penalty,
                             -kLargestChange, kLargestChange));
  for (const auto& [token, bias] : params.logit_bias) {
    RETURN_IF_ERROR(CheckTokens("logit_bias", {&token, 1}, vocab_size));
    RETURN_IF_ERROR(
        CheckRange("logit_bias", bias, -kLargestChange, kLargestChange));
  }
  if (params.logprobs > vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("logprobs is ", params.logprobs,
                     ", must be at most the vocabulary's ", vocab_size));
  }
  RETURN_IF_ERROR(CheckTokens("prompt", slice.prompt, vocab_size));
  RETURN_IF_ERROR(CheckTokens("output", slice.output, vocab_size));
  return CheckTokens("banned", slice.banned, vocab_size);
}

// More likely first, equals by id.
struct MoreLikely {
  template <typename Candidate>
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }
};

TokenId MostLikely(absl::Span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) -
                              logits.begin());
}

}  // namespace

bool AllFinite(absl::Span<const float> values) {
  // x - x is 0 for finite x and NaN otherwise; no branch, so it vectorises.
  bool finite = true;
  for (const float value : values) finite &= (value - value == 0.0f);
  return finite;
}

absl::Status NotFiniteError(const StepSlice& slice, int64_t position) {
  return absl::InternalError(absl::StrCat("the logits of sequence ",
                                          slice.sequence, " at position ",
                                          position, " are not finite"));
}

Sampler::Sampler(int32_t vocab_size)
    : vocab_size_(vocab_size),
      adjusted_(vocab_size),
      weights_(vocab_size),
      output_counts_(vocab_size, 0),
      seen_(vocab_size, false) {
  SPARSESERVE_CHECK(vocab_size >= 1);
  candidates_.reserve(vocab_size);
}

absl::Status Sampler::Sample(absl::Span<const float> logits,
                             const StepSlice& slice, SliceResult& result) {
  SPARSESERVE_CHECK(static_cast<int64_t>(logits.size()) == vocab_size_);
  const SamplingParams& params = *slice.sampling;
  RETURN_IF_ERROR(CheckSampling(slice, vocab_size_));
  if (!AllFinite(logits)) {
    return NotFiniteError(slice,
                          slice.first_position + slice.tokens.size() - 1);
  }

  Adjust(logits, slice);
  const TokenId most_likely = MostLikely(adjusted_);
  const float largest = adjusted_[most_likely];
  if (largest == kImpossible) {
    return absl::FailedPreconditionError(absl::StrCat(
        "sequence ", slice.sequence, " may draw no token: all are banned"));
  }
  result.token = params.temperature == 0
                     ? most_likely
                     : Draw(params, largest, slice.output.size());
  if (params.logprobs >= 0) ReportLogprobs(logits, params.logprobs, result);
  return absl::OkStatus();
}

void Sampler::Adjust(absl::Span<const float> logits, const StepSlice& slice) {
  const SamplingParams& params = *slice.sampling;
  std::copy(logits.begin(), logits.end(), adjusted_.begin());
  if (params.repetition_penalty != 1) {
    ApplyRepetitionPenalty(params.repetition_penalty, slice);
  }
  if (params.presence_penalty != 0 || params.frequency_penalty != 0) {
    ApplyOutputPenalties(params, slice.output);
  }
  for (const auto& [token, bias] : params.logit_bias) adjusted_[token] += bias;
  for (const TokenId token : slice.banned) adjusted_[token] = kImpossible;
}

void Sampler::ApplyRepetitionPenalty(float penalty, const StepSlice& slice) {
  // Keeps the result finite: a logit is, and so is the change.
  constexpr float kMax = std::numeric_limits<float>::max();
  for (const absl::Span<const TokenId> tokens : {slice.prompt, slice.output}) {
    for (const TokenId token : tokens) {
      if (seen_[token]) continue;
      seen_[token] = true;
      float& logit = adjusted_[token];
      logit = std::clamp(logit > 0 ? logit / penalty : logit * penalty, -kMax,
                         kMax);
    }
  }
  for (const absl::Span<const TokenId> tokens : {slice.prompt, slice.output}) {
    for (const TokenId token : tokens) seen_[token] = false;
  }
}

void Sampler::ApplyOutputPenalties(const SamplingParams& params,
                                   absl::Span<const TokenId> output) {
  for (const TokenId token : output) ++output_counts_[token];
  for (const TokenId token : output) {
    int32_t& count = output_counts_[token];
    if (count == 0) continue;
    adjusted_[token] -=
        params.presence_penalty + params.frequency_penalty * count;
    count = 0;
  }
}

TokenId Sampler::Draw(const SamplingParams& params, float largest,
                      uint64_t index) {
  const bool limited = params.top_k > 0 && params.top_k < vocab_size_;
  const double kept =
      limited ? TakeTopK(params, largest) : TakeAll(params, largest);
  if (params.top_p < 1) KeepTopP(params.top_p * kept);
  double total = 0;
  // The largest weight is 1, so min_p * max(p) is min_p in weights.
  for (Candidate& candidate : candidates_) {
    if (candidate.weight < params.min_p) candidate.weight = 0;
    total += candidate.weight;
  }

  const double target = PhiloxUniform(params.seed, index) * total;
  double passed = 0;
  TokenId token = -1;
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight == 0) continue;
    token = candidate.token;
    passed += candidate.weight;
    if (passed > target) break;
  }
  SPARSESERVE_CHECK(token >= 0);
  return token;
}

double Sampler::TakeTopK(const SamplingParams& params, float largest) {
  candidates_.clear();
  for (TokenId token = 0; token < vocab_size_; ++token) {
    candidates_.push_back({adjusted_[token], 0, token});
  }
  std::partial_sort(candidates_.begin(), candidates_.begin() + params.top_k,
                    candidates_.end(), MoreLikely());
  candidates_.resize(params.top_k);
  double total = 0;
  for (Candidate& candidate : candidates_) {
    candidate.weight =
        std::exp((candidate.logit - largest) / params.temperature);
    total += candidate.weight;
  }
  return total;
}

double Sampler::TakeAll(const SamplingParams& params, float largest) {
  double total = 0;
  for (TokenId token = 0; token < vocab_size_; ++token) {
    weights_[token] =
        std::exp((adjusted_[token] - largest) / params.temperature);
    total += weights_[token];
  }
  // Neither filter can keep a weight below these: all the weights under the
  // first together are less than the share that top_p may leave out.
  const double floor = std::max((1.0 - params.top_p) * total / vocab_size_,
                                static_cast<double>(params.min_p));
  candidates_.clear();
  for (TokenId token = 0; token < vocab_size_; ++token) {
    if (weights_[token] > 0 && weights_[token] >= floor) {
      candidates_.push_back({adjusted_[token], weights_[token], token});
    }
  }
  return total;
}

void Sampler::KeepTopP(double mass) {
  // Sorts no more of the tail than it takes to reach the mass.
  constexpr size_t kFirstChunk = 64;
  size_t sorted = 0;
  double passed = 0;
  for (size_t kept = 0; kept < candidates_.size(); ++kept) {
    if (kept == sorted) {
      sorted = std::min(std::max(kFirstChunk, 4 * sorted), candidates_.size());
      std::partial_sort(candidates_.begin() + kept,
                        candidates_.begin() + sorted, candidates_.end(),
                        MoreLikely());
    }
    passed += candidates_[kept].weight;
    if (passed >= mass) {
      candidates_.resize(kept + 1);
      return;
    }
  }
}

void Sampler::ReportLogprobs(absl::Span<const float> logits, int alternatives,
                             SliceResult& result) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  const double log_sum = std::log(sum);
  const auto logprob_of = [&](TokenId token) {
    return TokenLogprob{token,
                        static_cast<float>(logits[token] - largest - log_sum)};
  };
  result.chosen = logprob_of(result.token);

  result.alternatives.clear();
  if (alternatives == 0) return;
  candidates_.clear();
  for (TokenId token = 0; token < vocab_size_; ++token) {
    candidates_.push_back({logits[token], 0, token});
  }
  std::partial_sort(candidates_.begin(), candidates_.begin() + alternatives,
                    candidates_.end(), MoreLikely());
  for (int i = 0; i < alternatives; ++i) {
    result.alternatives.push_back(logprob_of(candidates_[i].token));
  }
}

}  // namespace sparseserve
