#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step.h"

namespace sparseserve {

// What is kept of the reference's logits, per position of a text.
struct GoldenRows {
  int positions = 0;
  int top = 0;                        // logits kept per position
  std::vector<uint16_t> top_ids;      // [positions, top], largest logit first
  std::vector<float> top_logits;      // [positions, top]
  std::vector<float> log_sum_exp;     // [positions], over the whole vocabulary
  std::vector<float> least;           // [positions], the least logit
  std::vector<float> target_logprob;  // [positions], of the next token
};

// A text that is fed token by token, whatever the model would have said.
struct GoldenText {
  std::string name;
  std::vector<TokenId> tokens;
  GoldenRows rows;  // a row per token
};

// A prompt with the most likely continuation.
struct GoldenPrompt {
  std::string name;
  std::vector<TokenId> tokens;
  std::vector<TokenId> continuation;
  float least_margin = 0;   // least difference of the two largest logits
  GoldenRows rows;          // row i is what continuation[i] was taken from
  int full_step = 0;        // the row that `full` has the whole of
  std::vector<float> full;  // [vocab_size]
};

// The reference of tests/golden/logits.
struct GoldenLogits {
  int vocab_size = 0;
  std::vector<GoldenPrompt> prompts;
  std::vector<GoldenText> passages;
  std::vector<GoldenText> prose;
};

// NOT_FOUND or DATA_LOSS names the file. `folder` holds manifest.json and
// logits.bin.
absl::StatusOr<GoldenLogits> ReadGoldenLogits(const std::string& folder);

}  // namespace sparseserve
