#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

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

// What main knows of it besides what the engine tells.
struct ServingLimits {
  int max_request_tokens = 0;  // of the scheduler
  int64_t max_queued_tokens = 0;
  int default_max_output_tokens = 0;
};

ServedModel DescribeModel(const std::string& name, const Engine& engine,
                          const ServingLimits& limits);

// The bytes of the longest token of ordinary text.
size_t LongestTokenBytes(const Tokenizer& tokenizer);

// "models/" and `label`, or the file's name without its last extension if
// `label` is empty. Becomes lower-case letters, digits, '-', '.' and '_'.
std::string ModelResourceName(const std::string& label,
                              const std::string& model_path);

}  // namespace sparseserve
