#pragma once

// Sampling in double precision, from the order of operations that
// engine/model/sampler.h documents: each operation over the whole vocabulary,
// fully sorted. Needs neither CUDA nor the engine, so that both DeviceSampler
// and Sampler are compared with it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "engine/backend/cuda/device_sampler.h"
#include "engine/model/philox.h"

namespace sparseserve::cuda {

// A row's logits and parameters, with what the latter point to.
struct SamplingCase {
  std::vector<float> logits;
  RowSampling params;  // its arrays are not set
  std::vector<TokenBias> logit_bias;
  std::vector<std::int32_t> banned, prompt, output;

  // Points into this case.
  RowSampling Row() const {
    RowSampling row = params;
    row.logit_bias = logit_bias.data();
    row.logit_biases = static_cast<std::int32_t>(logit_bias.size());
    row.banned = banned.data();
    row.banned_tokens = static_cast<std::int32_t>(banned.size());
    row.prompt = prompt.data();
    row.prompt_tokens = static_cast<std::int32_t>(prompt.size());
    row.output = output.data();
    row.output_tokens = static_cast<std::int32_t>(output.size());
    return row;
  }
};

struct ReferenceSample {
  SampleStatus status = SampleStatus::kOk;
  std::int32_t token = -1;
  // What may be drawn where uniform, top_p and min_p are off by one part in
  // 10^6: single precision decides between these.
  std::set<std::int32_t> near;
  // Of the row as it came.
  std::vector<double> logprobs;            // [vocab_size]
  std::vector<std::int32_t> alternatives;  // as many as asked for
};

class SamplingReference {
 public:
  explicit SamplingReference(const SamplingCase& row)
      : case_(row), size_(static_cast<int>(row.logits.size())) {}

  ReferenceSample Sample() {
    ReferenceSample result;
    for (const float logit : case_.logits) {
      if (!std::isfinite(logit)) result.status = SampleStatus::kNotFinite;
    }
    if (result.status != SampleStatus::kOk) return result;
    Adjust();
    const std::vector<int> ranked = Ranked(adjusted_);
    if (adjusted_[ranked[0]] == -kInfinity) {
      result.status = SampleStatus::kNothingToDraw;
      return result;
    }
    if (case_.params.temperature == 0) {
      result.token = ranked[0];
      result.near.insert(ranked[0]);
    } else {
      Draw(ranked, result);
    }
    if (case_.params.logprobs >= 0) ReportLogprobs(result);
    return result;
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  // Most likely first, equals by id.
  std::vector<int> Ranked(const std::vector<float>& values) const {
    std::vector<int> ranked(size_);
    std::iota(ranked.begin(), ranked.end(), 0);
    std::sort(ranked.begin(), ranked.end(), [&](int a, int b) {
      return values[a] != values[b] ? values[a] > values[b] : a < b;
    });
    return ranked;
  }

  // Logits stay single: which of them are equal is part of the semantics.
  void Adjust() {
    const RowSampling& params = case_.params;
    adjusted_ = case_.logits;
    std::vector<int> in_output(size_, 0);
    std::vector<char> seen(size_, 0);
    for (const int token : case_.prompt) seen[token] = 1;
    for (const int token : case_.output) {
      seen[token] = 1;
      ++in_output[token];
    }
    constexpr float kMax = std::numeric_limits<float>::max();
    for (int token = 0; token < size_; ++token) {
      float& x = adjusted_[token];
      if (seen[token] != 0 && params.repetition_penalty != 1) {
        x = x > 0 ? x / params.repetition_penalty
                  : x * params.repetition_penalty;
        x = std::min(std::max(x, -kMax), kMax);
      }
      if (in_output[token] > 0) {
        const float by_count =
            params.frequency_penalty * static_cast<float>(in_output[token]);
        x -= params.presence_penalty + by_count;
      }
    }
    for (const TokenBias& pair : case_.logit_bias) {
      adjusted_[pair.token] += pair.bias;
    }
    for (const int token : case_.banned) adjusted_[token] = -kInfinity;
  }

  void Draw(const std::vector<int>& ranked, ReferenceSample& result) {
    const double largest = adjusted_[ranked[0]];
    weights_.resize(size_);
    for (int token = 0; token < size_; ++token) {
      const double exponent =
          (adjusted_[token] - largest) / case_.params.temperature;
      // Documented in engine/model/row_math.h.
      weights_[token] = exponent < -87 ? 0 : std::exp(exponent);
    }
    const double uniform =
        PhiloxUniform(case_.params.seed, case_.params.draw_index);
    constexpr double kOff = 1e-6;
    result.token = DrawWith(ranked, uniform, 1, 1);
    const bool top_p = case_.params.top_p<1, min_p = case_.params.min_p> 0;
    for (int p = top_p ? -1 : 0; p <= (top_p ? 1 : 0); ++p) {
      for (int m = min_p ? -1 : 0; m <= (min_p ? 1 : 0); ++m) {
        for (int u = -1; u <= 1; ++u) {
          result.near.insert(DrawWith(ranked,
                                      std::clamp(uniform + u * kOff, 0.0, 1.0),
                                      1 + p * kOff, 1 + m * kOff));
        }
      }
    }
  }
  int DrawWith(const std::vector<int>& ranked, double uniform, double p_factor,
               double m_factor) const {
    const RowSampling& params = case_.params;
    int kept = size_;
    if (params.top_k > 0) kept = std::min(kept, params.top_k);
    if (params.top_p < 1) {
      double total = 0;
      for (int i = 0; i < kept; ++i) total += weights_[ranked[i]];
      double passed = 0;
      int reached = 0;
      while (reached < kept && passed < params.top_p * p_factor * total) {
        passed += weights_[ranked[reached++]];
      }
      kept = std::max(reached, 1);
    }
    std::vector<int> tokens;
    for (int i = 0; i < kept; ++i) {
      const double weight = weights_[ranked[i]];
      if (weight > 0 && weight >= std::min(params.min_p * m_factor, 1.0)) {
        tokens.push_back(ranked[i]);
      }
    }
    std::sort(tokens.begin(), tokens.end());
    double total = 0;
    for (const int token : tokens) total += weights_[token];
    double passed = 0;
    for (const int token : tokens) {
      passed += weights_[token];
      if (passed > uniform * total) return token;
    }
    return tokens.back();
  }

  void ReportLogprobs(ReferenceSample& result) const {
    const std::vector<int> ranked = Ranked(case_.logits);
    const double largest = case_.logits[ranked[0]];
    double sum = 0;
    for (const float logit : case_.logits) sum += std::exp(logit - largest);
    for (const float logit : case_.logits) {
      result.logprobs.push_back(logit - largest - std::log(sum));
    }
    result.alternatives.assign(ranked.begin(),
                               ranked.begin() + case_.params.logprobs);
  }

  const SamplingCase& case_;
  const int size_;
  std::vector<float> adjusted_;
  std::vector<double> weights_;
};

// Random logits and parameters, every combination in turn as `number` counts
// up; some rows full of ties, some with nearly all the weight on few tokens.
template <class Random>
SamplingCase RandomSamplingCase(int vocab_size, int number, Random& random) {
  const auto uniform = [&](double least, double greatest) {
    return static_cast<float>(least +
                              (greatest - least) * (random() / 4294967296.0));
  };
  const auto tokens = [&](int most) {
    std::vector<std::int32_t> list(random() % (most + 1));
    for (std::int32_t& token : list) {
      token = static_cast<std::int32_t>(random() % vocab_size);
    }
    return list;
  };
  SamplingCase row;
  row.logits.resize(vocab_size);
  const int kind = static_cast<int>(random() % 8);
  const float spread = kind < 2 ? 1 : kind < 6 ? 3 : 10;
  for (float& logit : row.logits) {
    logit = spread * (uniform(-1, 1) + uniform(-1, 1) + uniform(-1, 1));
    // 0 and -0 among the ties.
    if (kind == 1) logit = std::trunc(logit);
    if (kind == 7) logit = std::trunc(logit / 8);
  }
  if (kind == 3 && random() % 4 == 0) {
    std::fill(row.logits.begin(), row.logits.end(), uniform(-9, 9));
  }
  RowSampling& params = row.params;
  params.seed = (std::uint64_t{static_cast<std::uint32_t>(random())} << 32) |
                static_cast<std::uint32_t>(random());
  params.draw_index = random() % 5000;
  params.temperature = number % 16 == 15 ? 0
                       : number % 3 == 0 ? 1
                                         : uniform(0.1, 2);
  if ((number & 1) != 0) {
    params.top_k =
        1 +
        static_cast<int>(random() % (random() % 2 == 0 ? 60 : vocab_size + 5));
  }
  if ((number & 2) != 0) params.top_p = uniform(0.05, 1);
  if ((number & 4) != 0) params.min_p = uniform(0, 0.3);
  if ((number & 8) != 0) {
    params.repetition_penalty = uniform(0.7, 1.6);
    row.prompt = tokens(400);
  }
  if ((number & 16) != 0) {
    params.presence_penalty = uniform(-1, 2);
    params.frequency_penalty = uniform(-0.2, 0.5);
  }
  if ((number & 24) != 0) row.output = tokens(300);
  if ((number & 32) != 0) {
    for (const int token : tokens(20)) {
      row.logit_bias.push_back({token, uniform(-5, 5)});
    }
    if (!row.logit_bias.empty()) row.logit_bias.push_back(row.logit_bias[0]);
  }
  if ((number & 64) != 0) row.banned = tokens(std::min(vocab_size / 2, 50));
  if ((number & 128) != 0) {
    params.logprobs =
        static_cast<int>(random() % (std::min(vocab_size, 20) + 1));
  }
  return row;
}

}  // namespace sparseserve::cuda
