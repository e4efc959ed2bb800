#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace sparseserve {

// A loaded model as callers address it. Made by main; immutable.
struct ServedModel {
  std::string name;  // resource name, "models/{model}"
  ModelInfo info;
  std::string compute_dtype;
  const Tokenizer& tokenizer;         // outlives this
  const ChatTemplate* chat_template;  // may be null; outlives this
  int max_request_tokens = 0;         // prompt and output together
  int max_prompt_tokens = 0;
  int default_max_output_tokens = 0;
  // A text of more bytes has more than max_prompt_tokens tokens, whatever it
  // says: it is refused before it is tokenised.
  size_t max_prompt_bytes = 0;
};

// `max_request_tokens` is the scheduler's. Answers whose caller sets no limit
// may have `default_max_output_tokens`, or as many as the model can.
ServedModel DescribeModel(const std::string& name, const Engine& engine,
                          int max_request_tokens,
                          int default_max_output_tokens);

// The bytes of the longest token of ordinary text.
size_t LongestTokenBytes(const Tokenizer& tokenizer);

// "models/" and `label`; for an empty label, what the file's name says. An
// INVALID_ARGUMENT if the label would not be a name.
absl::StatusOr<std::string> ModelResourceName(const std::string& label,
                                              const std::string& model_path);

}  // namespace sparseserve
