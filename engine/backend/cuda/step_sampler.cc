#include "engine/backend/cuda/step_sampler.h"

#include <string>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve::cuda {
namespace {

int32_t SizeOf(absl::Span<const TokenId> tokens) {
  return static_cast<int32_t>(tokens.size());
}

absl::Status Failed(const LaunchStatus& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::InternalError(status.message());
}

SampledToken::Outcome OutcomeOf(SampleStatus status) {
  switch (status) {
    case SampleStatus::kOk:
      return SampledToken::Outcome::kDrawn;
    case SampleStatus::kNothingToDraw:
      return SampledToken::Outcome::kNothingToDraw;
    case SampleStatus::kIdle:
    case SampleStatus::kNotFinite:
      break;
  }
  return SampledToken::Outcome::kNotFinite;
}

void TakeRow(const SampledRow& row, SampledToken& token) {
  token.outcome = OutcomeOf(row.status);
  token.token = row.token;
  token.chosen = {row.token, row.logprob};
  token.alternatives.clear();
  for (int32_t i = 0; i < row.reported; ++i) {
    token.alternatives.push_back(
        {row.alternatives[i].token, row.alternatives[i].logprob});
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepSampler>> StepSampler::Create(
    int32_t vocab_size, int32_t max_rows) {
  DeviceSampler::Options options;
  options.vocab_size = vocab_size;
  options.max_rows = max_rows;
  options.max_listed = kMostListedTokens;
  std::unique_ptr<DeviceSampler> sampler;
  const LaunchStatus status = DeviceSampler::Create(options, &sampler);
  if (!status.ok()) return absl::FailedPreconditionError(status.message());
  return std::unique_ptr<StepSampler>(new StepSampler(std::move(sampler)));
}

absl::Status StepSampler::Run(const SampleArgs& args, uint64_t operation,
                              StepLaunches& launches, StepResults& results,
                              CUstream_st* stream) {
  SPARSESERVE_CHECK(args.slices.size() == args.tokens.size());
  SPARSESERVE_CHECK(static_cast<int64_t>(args.slices.size()) ==
                    args.logits.rows);
  rows_.clear();
  biases_.resize(args.slices.size());
  for (const StepSlice* slice : args.slices) AddRow(*slice);
  const int32_t rows = static_cast<int32_t>(rows_.size());
  RETURN_IF_ERROR(Failed(sampler_->Pack(rows_.data(), rows)));
  // Ahead of the step's launches, also of those that are still gathered.
  RETURN_IF_ERROR(Failed(sampler_->Upload(stream)));

  const absl::Span<SampledToken> tokens = args.tokens;
  SampledRow* const found =
      results.Add<SampledRow>(rows, [tokens](const SampledRow* sampled) {
        for (size_t i = 0; i < tokens.size(); ++i) {
          TakeRow(sampled[i], tokens[i]);
        }
      });
  RETURN_IF_ERROR(results.status());
  const float* const logits = args.logits.row(0);
  const int64_t stride = args.logits.columns;
  return launches.Add(
      {operation, reinterpret_cast<uint64_t>(logits),
       static_cast<uint64_t>(stride), static_cast<uint64_t>(rows),
       reinterpret_cast<uint64_t>(found)},
      [=, this](CUstream_st* on) {
        return sampler_->Run(logits, stride, rows, on, found);
      });
}

void StepSampler::AddRow(const StepSlice& slice) {
  const SamplingParams& params = *slice.sampling;
  std::vector<TokenBias>& biases = biases_[rows_.size()];
  biases.clear();
  for (const auto& [token, bias] : params.logit_bias) {
    biases.push_back({token, bias});
  }
  RowSampling row;
  row.temperature = params.temperature;
  row.top_k = params.top_k;
  row.top_p = params.top_p;
  row.min_p = params.min_p;
  row.repetition_penalty = params.repetition_penalty;
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.logprobs = params.logprobs;
  row.seed = params.seed;
  row.draw_index = slice.output.size();
  row.logit_bias = biases.data();
  row.logit_biases = static_cast<int32_t>(biases.size());
  row.banned = slice.banned.data();
  row.banned_tokens = SizeOf(slice.banned);
  row.prompt = slice.prompt.data();
  row.prompt_tokens = SizeOf(slice.prompt);
  row.output = slice.output.data();
  row.output_tokens = SizeOf(slice.output);
  rows_.push_back(row);
}

}  // namespace sparseserve::cuda
