#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/policy/named_plan.h"
#include "server/policy/pattern_decision.h"

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
  // What one step can run: prompts of patterns that cannot be cut must fit it.
  int max_step_tokens = 0;
  // Most tokens of a prompt that ExplainAttention takes; 0: it is off.
  int max_explained_tokens = 0;
  // What requests may name. The first is kDensePlan.
  std::vector<NamedPlan> plans = {{kDensePlan, {DensePattern()}}};
};

// What the server makes of a model.
struct ServedModelOptions {
  std::string name;
  int max_request_tokens = 0;  // the scheduler's, as the next
  int max_step_tokens = 0;
  // For answers whose caller sets no limit; or as many as the model can.
  int default_max_output_tokens = 0;
  bool explains = false;  // the engine can measure, and callers may ask for it
  std::vector<NamedPlan> plans;  // besides kDensePlan
};
ServedModel DescribeModel(const Engine& engine, ServedModelOptions options);

// The bytes of the longest token of ordinary text.
size_t LongestTokenBytes(const Tokenizer& tokenizer);

// "models/" and `label`; for an empty label, what the file's name says. An
// INVALID_ARGUMENT if the label would not be a name.
absl::StatusOr<std::string> ModelResourceName(const std::string& label,
                                              const std::string& model_path);

}  // namespace sparseserve
