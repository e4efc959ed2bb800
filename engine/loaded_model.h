#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/engine.h"
#include "engine/kv/kv_budget.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/model/transformer.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// Everything that loading made, in the order in which its parts depend on each
// other: destroyed in reverse.
struct LoadedModel {
  std::unique_ptr<Checkpoint> checkpoint;
  ModelConfig config;
  ModelInfo info;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: not a known one
  std::unique_ptr<Backend> backend;
  int32_t max_step_tokens = 0;
  std::unique_ptr<Transformer> transformer;
  KvBudget kv_budget;
  std::optional<KvCache> kv_cache;
};

// Statuses as Engine::Create().
absl::StatusOr<LoadedModel> LoadModel(const Engine::Options& options);

}  // namespace sparseserve
