#pragma once

// Rows of logits to tokens, on a GPU: what engine/model/sampler.h does on the
// host, with the same order of operations. No CUDA header is needed here.

#include <cstdint>
#include <memory>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Alternatives that a row may report.
inline constexpr std::int32_t kMostAlternatives = 20;

struct TokenBias {
  std::int32_t token = 0;
  float bias = 0.0f;
};

// How one row becomes a token; as SamplingParams and StepSlice have it. Arrays
// are the host's and only read during Pack().
struct RowSampling {
  // False: the row is not looked at, and its result is kIdle.
  bool wants_token = true;
  float temperature = 1.0f;  // 0: the most likely
  std::int32_t top_k = 0;    // 0 keeps all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  // Negative: no log-probabilities; else so many alternatives, up to
  // kMostAlternatives, and that of the token.
  std::int32_t logprobs = -1;
  std::uint64_t seed = 0;
  std::uint64_t draw_index = 0;  // number of the token in its output
  const TokenBias* logit_bias = nullptr;
  std::int32_t logit_biases = 0;
  const std::int32_t* banned = nullptr;
  std::int32_t banned_tokens = 0;
  // Of the two, only what a penalty looks at is copied to the device.
  const std::int32_t* prompt = nullptr;
  std::int32_t prompt_tokens = 0;
  const std::int32_t* output = nullptr;
  std::int32_t output_tokens = 0;
};

enum class SampleStatus : std::int32_t {
  kOk = 0,
  kIdle = 1,           // wanted no token
  kNotFinite = 2,      // a logit is NaN or infinite
  kNothingToDraw = 3,  // every token is banned
};

struct SampledAlternative {
  std::int32_t token = 0;
  float logprob = 0.0f;
};

// As it lies in device memory. Log-probabilities are natural ones, of the row
// as it came.
struct SampledRow {
  SampleStatus status = SampleStatus::kIdle;
  std::int32_t token = -1;                             // valid if kOk
  float logprob = 0.0f;                                // valid if logprobs >= 0
  std::int32_t reported = 0;                           // alternatives
  SampledAlternative alternatives[kMostAlternatives];  // most likely first
};

// Samples rows, on compute capability 9.0 and later. Owns what it copies
// through: a staging buffer on the host, its twin and the results on the
// device. Pack(), Upload(), Run(), in this order, on one stream. A draw is a
// pure function of logits, parameters, seed and index: neither other rows nor
// the number of thread blocks change it. Weights are summed as integers of
// 2^-44 of the largest, so the same input gives the same bits; tokens less
// likely than that by comparison are not drawn.
class DeviceSampler {
 public:
  struct Options {
    std::int32_t vocab_size = 0;  // 1 to kMostTokens
    std::int32_t max_rows = 0;    // 1 to 65535
    // Listed tokens (a bias counts twice) that all rows of a step may have.
    std::int64_t max_listed = 1 << 20;
  };
  static constexpr std::int32_t kMostTokens = 262144;

  // For the current device. An error names the option out of range or what the
  // device lacks.
  static LaunchStatus Create(const Options& options,
                             std::unique_ptr<DeviceSampler>* created);
  DeviceSampler(const DeviceSampler&) = delete;
  DeviceSampler& operator=(const DeviceSampler&) = delete;
  ~DeviceSampler();

  // Fills the staging buffer for rows 0 to `count` - 1; those behind want no
  // token. An error names row, parameter, value and limit; what was packed
  // before is then lost. REQUIRES: the last Upload() has left the buffer.
  LaunchStatus Pack(const RowSampling* rows, std::int32_t count);
  // Queues the one copy to the device. Its size changes between steps, so it
  // stays out of CUDA graphs.
  LaunchStatus Upload(CUstream_st* stream) const;
  // Queues one launch over rows 0 to `rows` - 1 of `logits`, f32 on the device,
  // row r at r * stride elements. May be captured in a CUDA graph. Parameters
  // are those of the last Upload(). Never waits for the device. What it finds
  // goes to `results`, [rows] on the device, or if that is null to results().
  LaunchStatus Run(const float* logits, std::int64_t stride, std::int32_t rows,
                   CUstream_st* stream, SampledRow* results = nullptr) const;
  // [max_rows], on the device: what the last Run() left here.
  const SampledRow* results() const { return results_; }

 private:
  explicit DeviceSampler(const Options& options) : options_(options) {}
  LaunchStatus PackRow(const RowSampling& row, std::int32_t index);
  LaunchStatus CheckRow(const RowSampling& row) const;
  std::int64_t HeaderBytes() const;

  const Options options_;
  unsigned char* staging_ = nullptr;  // pinned
  unsigned char* device_ = nullptr;   // its twin
  SampledRow* results_ = nullptr;
  std::int64_t listed_ = 0;  // elements of 4 bytes behind the rows' structs
};

}  // namespace sparseserve::cuda
