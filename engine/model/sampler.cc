#include "engine/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/model/philox.h"
#include "engine/model/row_math.h"
#include "engine/model/sampling_check.h"

namespace sparseserve {
namespace {

// Logits of which one maximum is taken when looking for the top_k.
constexpr size_t kGroupLogits = 64;
constexpr float kImpossible = -std::numeric_limits<float>::infinity();
// More likely first, equals by id.
struct MoreLikely {
  template <typename Candidate>
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }
};

TokenId FirstOf(absl::Span<const float> logits, float value) {
  return static_cast<TokenId>(std::find(logits.begin(), logits.end(), value) -
                              logits.begin());
}

// The first index at which the weights up to and with it pass `target`.
// REQUIRES: a weight is above 0.
template <typename Weights, typename WeightOf>
size_t PickWeight(const Weights& weights, double target, WeightOf weight_of) {
  double passed = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weight_of(weights[i]) == 0) continue;
    passed += weight_of(weights[i]);
    if (passed > target) return i;
    last = i;
  }
  return last;  // rounding put the target at the very end
}

}  // namespace

absl::Status NotFiniteError(const StepSlice& slice, int64_t position) {
  return absl::InternalError(absl::StrCat("the logits of sequence ",
                                          slice.sequence, " at position ",
                                          position, " are not finite"));
}

absl::Status NothingToDrawError(const StepSlice& slice) {
  return absl::FailedPreconditionError(absl::StrCat(
      "sequence ", slice.sequence, " may draw no token: all are banned"));
}

Sampler::Sampler(int32_t vocab_size)
    : vocab_size_(vocab_size),
      adjusted_(vocab_size),
      weights_(vocab_size),
      output_counts_(vocab_size, 0),
      seen_(vocab_size, false) {
  SPARSESERVE_CHECK(vocab_size >= 1);
  candidates_.reserve(vocab_size);
  ranked_.reserve(vocab_size);
  group_largest_.reserve(vocab_size / kGroupLogits);
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
  const float largest = LargestOf(adjusted_);
  if (largest == kImpossible) {
    return NothingToDrawError(slice);
  }
  result.token = params.temperature == 0
                     ? FirstOf(adjusted_, largest)
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
  double total = ExpWeights(adjusted_, largest, params.temperature,
                            absl::MakeSpan(weights_));
  const double uniform = PhiloxUniform(params.seed, index);
  const bool keeps_all =
      params.top_k == 0 && params.top_p == 1 && params.min_p == 0;
  if (keeps_all) {
    const size_t drawn = PickWeight(weights_, uniform * total,
                                    [](float weight) { return weight; });
    return static_cast<TokenId>(drawn);
  }
  TakeCandidates(params, total);
  const auto weight_of = [](const Candidate& candidate) {
    return candidate.weight;
  };
  total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return candidates_[PickWeight(candidates_, uniform * total, weight_of)].token;
}

void Sampler::TakeCandidates(const SamplingParams& params, double total) {
  const bool limit_count = params.top_k > 0 && params.top_k < vocab_size_;
  float least_logit = std::numeric_limits<float>::lowest();
  float least_weight = std::numeric_limits<float>::denorm_min();
  if (limit_count) {
    least_logit = std::max(least_logit, BoundOfTopK(params.top_k));
  } else {
    // All the weights below this are together less than the share that top_p
    // may leave out.
    least_weight = std::max(
        least_weight,
        static_cast<float>((1.0 - params.top_p) * total / vocab_size_));
  }
  candidates_.clear();
  for (TokenId token = 0; token < vocab_size_; ++token) {
    if (weights_[token] >= least_weight && adjusted_[token] >= least_logit) {
      candidates_.push_back({adjusted_[token], weights_[token], token});
    }
  }
  if (limit_count) {
    KeepTopK(params.top_k);
    total = 0;
    for (const Candidate& candidate : candidates_) total += candidate.weight;
  }
  if (params.top_p < 1) KeepTopP(params.top_p * total);
  // The largest weight is 1, so min_p * max(p) is min_p in weights.
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    return candidate.weight < params.min_p;
  });
}

float Sampler::BoundOfTopK(size_t count) {
  // Among the largest values of disjoint groups, the count-th is at most the
  // count-th of all.
  const size_t groups = adjusted_.size() / kGroupLogits;
  if (count > groups) return kImpossible;
  group_largest_.clear();
  for (size_t group = 0; group < groups; ++group) {
    group_largest_.push_back(LargestOf(absl::MakeConstSpan(adjusted_).subspan(
        group * kGroupLogits, kGroupLogits)));
  }
  const auto wanted = group_largest_.begin() + (count - 1);
  std::nth_element(group_largest_.begin(), wanted, group_largest_.end(),
                   std::greater<float>());
  return *wanted;
}

void Sampler::KeepTopK(size_t count) {
  if (count >= candidates_.size()) return;
  ranked_ = candidates_;
  std::nth_element(ranked_.begin(), ranked_.begin() + count - 1, ranked_.end(),
                   MoreLikely());
  DropAfter(ranked_[count - 1]);
}

void Sampler::KeepTopP(double mass) {
  // Halves the interval that holds the length of the shortest prefix, by rank,
  // that reaches the mass: (low, high]. Elements below `low` outrank it, those
  // from `high` on do not belong to it.
  ranked_ = candidates_;
  const auto begin = ranked_.begin();
  size_t low = 0;
  size_t high = ranked_.size();
  double passed = 0;
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(begin + low, begin + middle, begin + high, MoreLikely());
    double half = 0;
    for (size_t i = low; i < middle; ++i) half += ranked_[i].weight;
    if (passed + half >= mass) {
      high = middle;
    } else {
      passed += half;
      low = middle;
    }
  }
  // One element is left between the two, and it is the last to keep.
  DropAfter(ranked_[low]);
}

void Sampler::DropAfter(const Candidate& last) {
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    return MoreLikely()(last, candidate);
  });
}

void Sampler::ReportLogprobs(absl::Span<const float> logits, int alternatives,
                             SliceResult& result) {
  const float largest = LargestOf(logits);
  const double log_sum = std::log(
      ExpWeights(logits, largest, /*temperature=*/1, absl::MakeSpan(weights_)));
  const auto logprob_of = [&](TokenId token) {
    const double above = static_cast<double>(logits[token]) - largest;
    return TokenLogprob{token, static_cast<float>(above - log_sum)};
  };
  result.chosen = logprob_of(result.token);

  result.alternatives.clear();
  if (alternatives == 0) return;
  ranked_.clear();
  for (TokenId token = 0; token < vocab_size_; ++token) {
    ranked_.push_back({logits[token], 0, token});
  }
  std::partial_sort(ranked_.begin(), ranked_.begin() + alternatives,
                    ranked_.end(), MoreLikely());
  for (int i = 0; i < alternatives; ++i) {
    result.alternatives.push_back(logprob_of(ranked_[i].token));
  }
}

}  // namespace sparseserve
