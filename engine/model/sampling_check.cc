#include "engine/model/sampling_check.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

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

}  // namespace

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

}  // namespace sparseserve
