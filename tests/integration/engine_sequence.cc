#include "tests/integration/engine_sequence.h"

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve {

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(
    const std::string& model_path, const std::string& compute_dtype,
    const std::string& simd, const std::string& device) {
  Engine::Options options;
  options.model_path = model_path;
  options.compute_dtype = compute_dtype;
  options.simd = simd;
  options.device = device;
  options.kv_cache_bytes = int64_t{512} << 20;
  return Engine::Create(std::move(options));
}

EngineSequence::EngineSequence(PagePool& pool, SequenceId id, int max_tokens)
    : id_(id) {
  SPARSESERVE_CHECK(
      pool.Grow(lease_, (max_tokens + kPageTokens - 1) / kPageTokens));
}

StepSlice EngineSequence::Next(Phase phase, absl::Span<const TokenId> tokens) {
  StepSlice slice;
  slice.sequence = id_;
  slice.phase = phase;
  slice.tokens = tokens;
  slice.first_position = position_;
  slice.pages = lease_.pages();
  slice.kept_blocks = &kept_blocks_;
  position_ += static_cast<int>(tokens.size());
  SPARSESERVE_CHECK(position_ <= lease_.size() * kPageTokens);
  return slice;
}

absl::StatusOr<StepResult> RunStep(Engine& engine, const StepPlan& plan) {
  ASSIGN_OR_RETURN(StepResult result, engine.Step(plan));
  for (const SliceResult& slice : result.slices) RETURN_IF_ERROR(slice.status);
  return result;
}

absl::Status FeedText(
    Engine& engine, absl::Span<const TokenId> tokens, Feeding feeding,
    absl::FunctionRef<void(int first, absl::Span<const float> rows)> consume) {
  const size_t chunk_tokens =
      feeding.phase == Phase::kDecode ? 1 : feeding.chunk_tokens;
  PagePool pool(engine.kv_pages());
  EngineSequence sequence(pool, /*id=*/1, static_cast<int>(tokens.size()));
  std::vector<float> logits(chunk_tokens * engine.info().vocab_size);
  for (size_t first = 0; first < tokens.size(); first += chunk_tokens) {
    const auto chunk = tokens.subspan(first, chunk_tokens);
    StepPlan plan;
    plan.slices.push_back(sequence.Next(feeding.phase, chunk));
    plan.slices.back().all_logits =
        absl::MakeSpan(logits).first(chunk.size() * engine.info().vocab_size);
    RETURN_IF_ERROR(RunStep(engine, plan).status());
    consume(static_cast<int>(first), plan.slices.back().all_logits);
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
