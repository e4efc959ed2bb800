#include "engine/loaded_model.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/create_backend.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/model_weights.h"
#include "engine/model/pruned_heads.h"

namespace sparseserve {
namespace {

absl::Status CheckOption(const char* name, int64_t value, int64_t least,
                         int64_t greatest) {
  if (value >= least && value <= greatest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(name, " is ", value, ", must be from ", least, " to ", greatest));
}

absl::Status CheckOptions(const Engine::Options& options) {
  if (options.model_path.empty()) {
    return absl::InvalidArgumentError("model_path is empty");
  }
  RETURN_IF_ERROR(CheckOption("kv_cache_bytes", options.kv_cache_bytes, 0,
                              int64_t{1} << 50));
  RETURN_IF_ERROR(
      CheckOption("host_kv_bytes", options.host_kv_bytes, 0, int64_t{1} << 50));
  RETURN_IF_ERROR(
      CheckOption("max_step_tokens", options.max_step_tokens, 0, 1 << 16));
  return CheckOption("max_step_slices", options.max_step_slices, 1, 1 << 12);
}

// The dtype that most of the model's elements have, and their number.
void DescribeTensors(const Checkpoint& checkpoint, ModelInfo& info) {
  int64_t largest = 0;
  std::vector<std::pair<DType, int64_t>> counts;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!tensor.dtype.has_value()) continue;
    info.parameters += tensor.elements();
    auto count = std::find_if(
        counts.begin(), counts.end(),
        [&](const auto& entry) { return entry.first == *tensor.dtype; });
    if (count == counts.end()) {
      count = counts.insert(counts.end(), {*tensor.dtype, 0});
    }
    count->second += tensor.elements();
    if (count->second > largest) {
      largest = count->second;
      info.weight_dtype = std::string(DTypeName(*tensor.dtype));
    }
  }
}

ModelInfo DescribeModel(const Checkpoint& checkpoint,
                        const ChatTemplate* chat_template) {
  const ModelConfig& config = checkpoint.config();
  ModelInfo info;
  info.name = checkpoint.name();
  info.architecture = std::string(ArchitectureName(config.architecture));
  info.context_tokens = config.context_tokens;
  info.vocab_size = config.vocab_size;
  info.layers = config.layers;
  info.heads = config.heads;
  info.kv_heads = config.kv_heads;
  info.head_dim = config.head_dim;
  for (const LayerConfig& layer : config.layer_configs) {
    info.layer_windows.push_back(layer.window_tokens);
  }
  if (chat_template != nullptr) {
    info.chat_template = std::string(chat_template->name());
  }
  DescribeTensors(checkpoint, info);
  return info;
}

// In parts, so that this process never holds a whole file.
std::string Fingerprint(const Checkpoint& checkpoint,
                        const Engine::Options& options) {
  constexpr size_t kPartBytes = size_t{64} << 20;
  const auto total = static_cast<double>(checkpoint.file_bytes());
  double done = 0;
  Sha256 digest;
  for (const absl::Span<const std::byte> file : checkpoint.contents()) {
    for (size_t begin = 0; begin < file.size(); begin += kPartBytes) {
      const absl::Span<const std::byte> part = file.subspan(begin, kPartBytes);
      digest.Add(part);
      checkpoint.ForgetPages();
      done += static_cast<double>(part.size());
      if (options.progress) options.progress("fingerprint", done / total);
    }
  }
  return digest.Finish();
}

bool PrunesHeads(const ModelConfig& config) {
  return std::any_of(
      config.layer_configs.begin(), config.layer_configs.end(),
      [](const LayerConfig& layer) { return !layer.pruned_kv_heads.empty(); });
}

ModelNeeds NeedsOf(const ModelConfig& config) {
  ModelNeeds needs;
  needs.heads = config.heads;
  needs.kv_heads = config.kv_heads;
  needs.head_dim = config.head_dim;
  needs.hidden = config.hidden;
  needs.mlp_hidden = config.mlp_hidden;
  needs.vocab_size = config.vocab_size;
  needs.context_tokens = config.context_tokens;
  needs.attention_softcap = config.attention_softcap;
  needs.prunes_heads = PrunesHeads(config);
  return needs;
}

// Rows of a step if nobody says how many. More keep a prompt's products
// efficient, for which a device of its own needs more than a CPU does, and make
// output beside them wait.
int32_t StepTokens(const Engine::Options& options, const DeviceInfo& device) {
  constexpr int32_t kOfHost = 512, kOfDevice = 8192;
  if (options.max_step_tokens > 0) return options.max_step_tokens;
  return std::max(device.shares_host_memory ? kOfHost : kOfDevice,
                  options.max_step_slices + int32_t{kPageTokens} - 1);
}

absl::Status LoadTransformer(const Engine::Options& options,
                             LoadedModel& model) {
  const auto report = [&](const char* stage, double done) {
    if (options.progress) options.progress(stage, done);
  };
  BackendOptions backend_options;
  backend_options.device = options.device;
  backend_options.model = NeedsOf(model.config);
  backend_options.threads = options.threads;
  backend_options.compute_dtype = options.compute_dtype;
  backend_options.simd = options.simd;
  // Which device it is is not known yet; a GPU does not ask.
  backend_options.max_rows = std::max(StepTokens(options, DeviceInfo()),
                                      int32_t{options.max_step_slices});
  backend_options.max_sampled_rows = options.max_step_slices;
  ASSIGN_OR_RETURN(model.backend, CreateBackend(backend_options));
  model.max_step_tokens = StepTokens(options, model.backend->device());
  ASSIGN_OR_RETURN(
      ModelWeights weights,
      LoadModelWeights(*model.backend, *model.checkpoint, model.config,
                       [&](double done) { report("weights", done); }));
  RETURN_IF_ERROR(model.backend->Prepare(
      model.max_step_tokens, [&](double done) { report("products", done); }));
  Transformer::Limits limits;
  limits.max_rows = model.max_step_tokens;
  limits.max_logit_rows = options.max_step_slices;
  limits.measures_recall = options.measure_recall;
  ASSIGN_OR_RETURN(model.transformer,
                   Transformer::Create(*model.backend, model.config,
                                       std::move(weights), limits));
  return absl::OkStatus();
}

absl::Status AllocateKvCache(const Engine::Options& options,
                             LoadedModel& model) {
  KvCache::Shape shape;
  shape.layers = model.config.layers;
  shape.kv_heads = model.config.kv_heads;
  for (int32_t layer = 0; layer < model.config.layers; ++layer) {
    shape.layer_kv_heads.push_back(model.config.kv_head_count(layer));
  }
  shape.head_dim = model.config.head_dim;
  shape.dtype = model.backend->device().kv_dtype;
  // For rules that choose by scores: in layers with a window none does, and on
  // some devices none at all.
  const auto& layers = model.config.layer_configs;
  const SelectionRuleKinds& rules = model.backend->device().selection_rules;
  shape.bounds_keys =
      (rules.Has(PageBoundRule{}) || rules.Has(CandidateMassRule{})) &&
      std::any_of(layers.begin(), layers.end(), [](const LayerConfig& layer) {
        return layer.window_tokens == 0;
      });
  KvBudget::Request request;
  request.bytes = options.kv_cache_bytes;
  if (request.bytes == 0 && model.backend->device().shares_host_memory) {
    request.bytes = options.host_kv_bytes;
  }
  request.page_bytes = KvCache::PageBytes(shape);
  request.context_tokens = model.config.context_tokens;
  request.available_bytes = model.backend->AvailableBytes();
  request.contexts = model.backend->device().kv_contexts;
  request.share = model.backend->device().kv_share;
  ASSIGN_OR_RETURN(model.kv_budget, ChooseKvBudget(request));
  ASSIGN_OR_RETURN(model.kv_cache, KvCache::Create(*model.backend, shape,
                                                   model.kv_budget.pages));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const Engine::Options& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  LoadedModel model;
  ASSIGN_OR_RETURN(model.checkpoint, OpenCheckpoint(options.model_path));
  model.config = model.checkpoint->config();
  RETURN_IF_ERROR(PruneHeads(options.pruned_heads, model.config));
  ASSIGN_OR_RETURN(model.tokenizer, model.checkpoint->LoadTokenizer());
  if (model.tokenizer->vocab_size() != model.config.vocab_size) {
    return absl::InvalidArgumentError(
        StrCat("the tokenizer has ", model.tokenizer->vocab_size(),
               " tokens, the model ", model.config.vocab_size));
  }
  ASSIGN_OR_RETURN(model.chat_template, model.checkpoint->LoadChatTemplate());
  model.info = DescribeModel(*model.checkpoint, model.chat_template.get());
  for (int32_t layer = 0; layer < model.config.layers; ++layer) {
    const auto& pruned = model.config.layer_configs[layer].pruned_kv_heads;
    if (pruned.empty()) continue;
    model.info.pruned_heads.push_back({layer, {pruned.begin(), pruned.end()}});
  }
  RETURN_IF_ERROR(LoadTransformer(options, model));
  if (options.fingerprint_weights) {
    model.info.weights_sha256 = Fingerprint(*model.checkpoint, options);
  }
  const DeviceInfo& device = model.backend->device();
  model.info.selection_rules = device.selection_rules;
  model.info.corrects_rows = device.corrects;
  model.info.profiles_attention = device.profiles && !PrunesHeads(model.config);
  model.info.skips_blocks = device.skips;
  RETURN_IF_ERROR(AllocateKvCache(options, model));
  return model;
}

}  // namespace sparseserve
