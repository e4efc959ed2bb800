#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "engine/attention/attention_plan.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/loaded_model.h"
#include "engine/model/row_math.h"
#include "engine/model/sampler.h"
#include "engine/model/sampling_check.h"
#include "engine/model/slice_check.h"
#include "engine/model/stage_clock.h"
#include "engine/pattern/attention_choice.h"

namespace sparseserve {
namespace {

class LoadedEngine final : public Engine {
 public:
  LoadedEngine(Options options, LoadedModel model);

  absl::StatusOr<StepResult> Step(const StepPlan& plan) override;

  const ModelInfo& info() const override { return model_.info; }
  const Tokenizer& tokenizer() const override { return *model_.tokenizer; }
  const ChatTemplate* chat_template() const override {
    return model_.chat_template.get();
  }
  int kv_pages() const override { return model_.kv_cache->pages(); }
  int max_step_tokens() const override { return model_.max_step_tokens; }
  MemoryUse memory() const override;
  std::string DeviceSummary() const override;
  std::string device() const override { return model_.backend->device().name; }
  std::string simd() const override { return model_.backend->device().simd; }
  std::string compute_dtype() const override;

 private:
  // A row whose logits somebody wants.
  struct LogitRow {
    int32_t row = 0;       // of the batch
    int32_t planned = 0;   // index into planned_
    int32_t in_slice = 0;  // row of its slice
  };

  // Those that the device samples, and all others.
  void ListLogitRows(StepResult& result);
  bool SamplesOnDevice(const StepSlice& slice, int64_t& listed_tokens) const;
  void SampleOnDevice(StageClock& clock, StepResult& result);
  // What the device drew, after the step.
  void TakeSampled(StepResult& result);
  void RunHead(absl::Span<const LogitRow> rows, StageClock& clock,
               StepResult& result);
  absl::Status UseLogits(const LogitRow& row, absl::Span<const float> logits,
                         SliceResult& result);

  const Options options_;
  LoadedModel model_;
  StepLimits limits_;
  AttentionPlan attention_plan_;
  Sampler sampler_;
  // Of the step in progress; kept for their memory.
  std::vector<PlannedSlice> planned_;  // slices that passed their check
  std::vector<int32_t> slice_of_;      // [planned_]: index in the step's plan
  std::vector<LogitRow> logit_rows_;
  std::vector<int32_t> head_rows_;
  // Likewise, of what the device samples.
  std::vector<LogitRow> sampled_rows_;
  std::vector<const StepSlice*> sampled_slices_;
  std::vector<SampledToken> sampled_tokens_;
};

LoadedEngine::LoadedEngine(Options options, LoadedModel model)
    : options_(std::move(options)),
      model_(std::move(model)),
      attention_plan_(Transformer::PlanShape(model_.config)),
      sampler_(model_.config.vocab_size) {
  limits_.max_slices = options_.max_step_slices;
  limits_.max_rows = model_.max_step_tokens;
  limits_.vocab_size = model_.config.vocab_size;
  limits_.context_tokens = model_.config.context_tokens;
  limits_.kv_pages = model_.kv_cache->pages();
  limits_.attention = {model_.config.layers, model_.config.kv_heads};
  const DeviceInfo& device = model_.backend->device();
  limits_.selection_rules = device.selection_rules;
  limits_.selects_for_output_chunks = device.selects_for_output_chunks;
  limits_.corrects = device.corrects;
  limits_.prunes_heads = !model_.info.pruned_heads.empty();
  if (options_.measure_recall) {
    limits_.recall_width = int64_t{model_.config.layers} * model_.config.heads;
  }
}

absl::StatusOr<StepResult> LoadedEngine::Step(const StepPlan& plan) {
  RETURN_IF_ERROR(CheckPlan(plan, limits_));
  StageClock clock(options_.stopwatch);
  for (const PageCopy& copy : plan.page_copies) {
    model_.kv_cache->CopyPage(copy.from, copy.to, *model_.backend);
  }
  StepResult result;
  result.slices.resize(plan.slices.size());
  planned_.clear();
  slice_of_.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(plan.slices.size()); ++i) {
    result.slices[i].status = CheckSlice(plan.slices[i], limits_);
    if (!result.slices[i].status.ok()) continue;
    const AttentionChoice* choice = plan.slices[i].attention;
    PlannedSlice planned = {&plan.slices[i], DensePattern()};
    if (choice != nullptr) {
      planned.pattern = choice->pattern;
      planned.map = choice->map.get();
    }
    planned_.push_back(planned);
    slice_of_.push_back(i);
  }
  if (planned_.empty()) return result;
  SPARSESERVE_DCHECK(WritesAreExclusive(planned_));

  attention_plan_.Build(planned_);
  model_.backend->BeginStep(attention_plan_.groups());
  model_.transformer->Forward(attention_plan_, *model_.kv_cache, clock,
                              result.times);
  ListLogitRows(result);
  if (!sampled_rows_.empty()) SampleOnDevice(clock, result);
  const size_t chunk = static_cast<size_t>(limits_.max_slices);
  for (size_t begin = 0; begin < logit_rows_.size(); begin += chunk) {
    RunHead(absl::MakeConstSpan(logit_rows_).subspan(begin, chunk), clock,
            result);
  }
  RETURN_IF_ERROR(model_.backend->EndStep());
  if (!model_.backend->device().shares_host_memory) {
    attention_plan_.TakeChosen();
  }
  TakeSampled(result);
  for (size_t i = 0; i < planned_.size(); ++i) {
    result.slices[slice_of_[i]].blocks =
        attention_plan_.blocks(static_cast<int>(i));
  }
  // Of a device that runs behind the host, laps say only how long it took to
  // tell it what to do.
  if (!model_.backend->device().shares_host_memory) result.times = {};
  result.times.total = clock.SinceStart();
  return result;
}

void LoadedEngine::ListLogitRows(StepResult& result) {
  logit_rows_.clear();
  sampled_rows_.clear();
  int64_t listed_tokens = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(planned_.size()); ++i) {
    const StepSlice& slice = *planned_[i].slice;
    const int32_t first_row = attention_plan_.first_row(i);
    const int32_t rows = static_cast<int32_t>(slice.tokens.size());
    if (SamplesOnDevice(slice, listed_tokens)) {
      absl::Status& status = result.slices[slice_of_[i]].status;
      status = CheckSampling(slice, model_.config.vocab_size);
      if (status.ok())
        sampled_rows_.push_back({first_row + rows - 1, i, rows - 1});
      continue;
    }
    int32_t first_wanted = rows;
    if (slice.wants_token) first_wanted = rows - 1;
    if (!slice.all_logits.empty()) first_wanted = 0;
    for (int32_t r = first_wanted; r < rows; ++r) {
      logit_rows_.push_back({first_row + r, i, r});
    }
  }
}

// Rows that nobody wants the logits of, within the device's limits. Adds to the
// tokens that lists of such rows have.
bool LoadedEngine::SamplesOnDevice(const StepSlice& slice,
                                   int64_t& listed_tokens) const {
  const DeviceInfo& device = model_.backend->device();
  if (!device.samples || !slice.wants_token || !slice.all_logits.empty()) {
    return false;
  }
  const SamplingParams& params = *slice.sampling;
  if (params.logprobs > device.sampled_alternatives) return false;
  const bool sees_prompt = params.repetition_penalty != 1;
  const bool sees_output = sees_prompt || params.presence_penalty != 0 ||
                           params.frequency_penalty != 0;
  const size_t listed = (sees_prompt ? slice.prompt.size() : 0) +
                        (sees_output ? slice.output.size() : 0) +
                        slice.banned.size() + 2 * params.logit_bias.size();
  const int64_t all = listed_tokens + static_cast<int64_t>(listed);
  if (all > device.sampled_listed_tokens) return false;
  listed_tokens = all;
  return true;
}

void LoadedEngine::SampleOnDevice(StageClock& clock, StepResult& result) {
  head_rows_.clear();
  sampled_slices_.clear();
  for (const LogitRow& row : sampled_rows_) {
    head_rows_.push_back(row.row);
    sampled_slices_.push_back(planned_[row.planned].slice);
  }
  sampled_tokens_.assign(sampled_rows_.size(), {});
  SampleArgs args;
  args.logits = model_.transformer->DeviceLogits(head_rows_);
  clock.Lap(result.times.mlp);
  args.slices = sampled_slices_;
  args.tokens = absl::MakeSpan(sampled_tokens_);
  model_.backend->Sample(args);
  clock.Lap(result.times.sampling);
}

void LoadedEngine::TakeSampled(StepResult& result) {
  for (size_t i = 0; i < sampled_rows_.size(); ++i) {
    const StepSlice& slice = *sampled_slices_[i];
    SampledToken& token = sampled_tokens_[i];
    SliceResult& taken = result.slices[slice_of_[sampled_rows_[i].planned]];
    switch (token.outcome) {
      case SampledToken::Outcome::kDrawn:
        taken.token = token.token;
        if (slice.sampling->logprobs >= 0) taken.chosen = token.chosen;
        taken.alternatives = std::move(token.alternatives);
        break;
      case SampledToken::Outcome::kNotFinite:
        taken.status = NotFiniteError(
            slice, slice.first_position +
                       static_cast<int64_t>(slice.tokens.size()) - 1);
        break;
      case SampledToken::Outcome::kNothingToDraw:
        taken.status = NothingToDrawError(slice);
        break;
    }
  }
}

void LoadedEngine::RunHead(absl::Span<const LogitRow> rows, StageClock& clock,
                           StepResult& result) {
  head_rows_.clear();
  for (const LogitRow& row : rows) head_rows_.push_back(row.row);
  const ConstMatrixView logits = model_.transformer->Logits(head_rows_);
  clock.Lap(result.times.mlp);
  for (size_t i = 0; i < rows.size(); ++i) {
    SliceResult& slice_result = result.slices[slice_of_[rows[i].planned]];
    if (!slice_result.status.ok()) continue;
    slice_result.status =
        UseLogits(rows[i],
                  absl::MakeConstSpan(logits.row(static_cast<int64_t>(i)),
                                      logits.columns),
                  slice_result);
  }
  clock.Lap(result.times.sampling);
}

absl::Status LoadedEngine::UseLogits(const LogitRow& row,
                                     absl::Span<const float> logits,
                                     SliceResult& result) {
  const StepSlice& slice = *planned_[row.planned].slice;
  if (!slice.all_logits.empty()) {
    const auto destination =
        slice.all_logits.subspan(row.in_slice * logits.size(), logits.size());
    std::copy(logits.begin(), logits.end(), destination.begin());
    if (!AllFinite(logits)) {
      return NotFiniteError(slice, slice.first_position + row.in_slice);
    }
  }
  const bool last = row.in_slice + 1 == static_cast<int>(slice.tokens.size());
  if (!slice.wants_token || !last) return absl::OkStatus();
  return sampler_.Sample(logits, slice, result);
}

MemoryUse LoadedEngine::memory() const {
  MemoryUse use;
  use.mapped_file_bytes = model_.checkpoint->file_bytes();
  use.weights_bytes = model_.transformer->weights_bytes();
  use.kv_bytes = model_.kv_cache->bytes();
  use.activations_bytes = model_.transformer->activations_bytes();
  use.summaries_bytes = model_.kv_cache->bounds_bytes();
  return use;
}

std::string LoadedEngine::compute_dtype() const {
  switch (model_.backend->device().compute_dtype) {
    case ComputeDtype::kF32:
      return "f32";
    case ComputeDtype::kBF16:
      return "bf16";
  }
  return "";
}

std::string LoadedEngine::DeviceSummary() const {
  const DeviceInfo& device = model_.backend->device();
  const std::string note =
      device.note.empty() ? "" : StrCat(" (", device.note, ")");
  return StrCat(device.name, note, ", ",
                device.model.empty() ? "" : StrCat(device.model, ", "),
                device.simd, ", ", device.threads, " threads, ",
                DTypeName(device.prefill_dtype), " prompt products, ",
                DTypeName(device.kv_dtype), " KV cache of ", kv_pages(),
                " pages (", model_.kv_budget.reason, ")");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Options options) {
  ASSIGN_OR_RETURN(LoadedModel model, LoadModel(options));
  return std::make_unique<LoadedEngine>(std::move(options), std::move(model));
}

}  // namespace sparseserve
