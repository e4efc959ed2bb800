// How long whole steps take on a device, for a model of random weights: prompts
// of some lengths, dense and by sinks and a window at about a tenth of the
// blocks, and output at some depths and numbers of sequences. Where the device
// can, also prompts and output whose blocks it chooses by scores, and output
// whose tokens it draws beside those that the host draws of logits. What it may
// be compared with stands beside it: a decode step with reading the weights at
// 4.26 TB/s, what an H200 copies.
//
//   step_bench --device=cuda --prefill=8192,32768 --decode=1x1024,8x32768
//
// Lines of CSV go to --csv. tests/bench/cuda/step_peers.py runs transformers on
// the same shape.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/attention/attention_plan.h"
#include "engine/backend/create_backend.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/model_weights.h"
#include "engine/model/sampler.h"
#include "engine/model/transformer.h"

ABSL_FLAG(std::string, device, "cuda", "cpu, cuda or auto");
ABSL_FLAG(int, layers, 32, "of the shape of Llama-3.1-8B");
ABSL_FLAG(std::vector<std::string>, prefill,
          (std::vector<std::string>{"8192", "32768"}), "prompt lengths");
ABSL_FLAG(std::vector<std::string>, decode,
          (std::vector<std::string>{"1x1024", "1x32768", "8x8192"}),
          "sequences x depth");
ABSL_FLAG(int, repetitions, 15, "timed runs of each");
ABSL_FLAG(int, chunk_tokens, 8192, "tokens of a prefill step");
ABSL_FLAG(std::string, csv, "", "file for the results");

namespace sparseserve {
namespace {

constexpr double kCopyRate = 4.26e12;

ModelConfig Llama8B(int layers, int context_tokens) {
  ModelConfig config;
  config.layers = layers;
  config.hidden = 4096;
  config.heads = 32;
  config.kv_heads = 8;
  config.head_dim = 128;
  config.mlp_hidden = 14336;
  config.vocab_size = 128256;
  config.context_tokens = context_tokens;
  config.norm_epsilon = 1e-5f;
  config.rope_pairs = RopePairs::kHalves;
  config.rope.base = 500000;
  config.layer_configs.resize(layers);
  config.attention_scale = 0.08838834764831845f;
  return config;
}

// Random bf16 numbers that every weight is cut from.
class RandomWeights {
 public:
  explicit RandomWeights(Backend& backend) : backend_(backend) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    for (uint16_t& value : values_) {
      const float number = normal(random);
      uint32_t bits;
      static_assert(sizeof(bits) == sizeof(number));
      std::copy_n(reinterpret_cast<const char*>(&number), sizeof(bits),
                  reinterpret_cast<char*>(&bits));
      value = static_cast<uint16_t>(bits >> 16);
    }
  }

  absl::StatusOr<std::unique_ptr<Weight>> Make(int64_t rows, int64_t columns,
                                               WeightUse use) {
    std::vector<StoredMatrix> parts;
    const int64_t most = static_cast<int64_t>(values_.size()) / columns;
    for (int64_t row = 0; row < rows; row += most) {
      parts.push_back({reinterpret_cast<const std::byte*>(values_.data()),
                       DType::kBF16, std::min(most, rows - row), columns});
    }
    bytes_ += 2 * rows * columns;
    return backend_.LoadWeight(parts, use);
  }

  absl::StatusOr<Buffer> Ones(int64_t size) {
    const std::vector<float> ones(size, 1.0f);
    ASSIGN_OR_RETURN(Buffer buffer, backend_.Allocate(size * 4));
    backend_.Upload(ones.data(), size * 4, buffer.data());
    return buffer;
  }

  int64_t bytes() const { return bytes_; }

 private:
  Backend& backend_;
  std::vector<uint16_t> values_ = std::vector<uint16_t>(size_t{1} << 24);
  int64_t bytes_ = 0;
};

// What a step leaves.
enum class Ending {
  kLogits,        // on the host
  kHostTokens,    // drawn from them
  kDeviceTokens,  // drawn on the device
};

absl::StatusOr<ModelWeights> MakeWeights(RandomWeights& random,
                                         const ModelConfig& config) {
  ModelWeights weights;
  ASSIGN_OR_RETURN(
      weights.token_embedding,
      random.Make(config.vocab_size, config.hidden, WeightUse::kTable));
  for (int layer = 0; layer < config.layers; ++layer) {
    LayerWeights& l = weights.layers.emplace_back();
    ASSIGN_OR_RETURN(l.attention_norm, random.Ones(config.hidden));
    ASSIGN_OR_RETURN(l.mlp_norm, random.Ones(config.hidden));
    ASSIGN_OR_RETURN(l.qkv, random.Make(config.qkv_columns(), config.hidden,
                                        WeightUse::kLayer));
    ASSIGN_OR_RETURN(
        l.attention_output,
        random.Make(config.hidden, config.q_columns(), WeightUse::kLayer));
    ASSIGN_OR_RETURN(l.gate_up, random.Make(2 * int64_t{config.mlp_hidden},
                                            config.hidden, WeightUse::kLayer));
    ASSIGN_OR_RETURN(l.down, random.Make(config.hidden, config.mlp_hidden,
                                         WeightUse::kLayer));
  }
  ASSIGN_OR_RETURN(weights.output_norm, random.Ones(config.hidden));
  ASSIGN_OR_RETURN(
      weights.separate_head,
      random.Make(config.vocab_size, config.hidden, WeightUse::kFewRows));
  return weights;
}

double Seconds(absl::FunctionRef<void()> work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2,
                   values.end());
  return values[values.size() / 2];
}

// A model, its pages and sequences that all stand at the same position.
class Model {
 public:
  static absl::StatusOr<std::unique_ptr<Model>> Create(int layers,
                                                       int most_tokens,
                                                       int max_rows) {
    BackendOptions options;
    options.device = absl::GetFlag(FLAGS_device);
    options.max_rows = max_rows;
    auto model = std::make_unique<Model>();
    model->config_ = Llama8B(layers, most_tokens);
    const ModelConfig& config = model->config_;
    options.model = {.heads = config.heads,
                     .kv_heads = config.kv_heads,
                     .head_dim = config.head_dim,
                     .hidden = config.hidden,
                     .mlp_hidden = config.mlp_hidden,
                     .vocab_size = config.vocab_size,
                     .context_tokens = config.context_tokens};
    ASSIGN_OR_RETURN(model->backend_, CreateBackend(options));
    RandomWeights random(*model->backend_);
    ASSIGN_OR_RETURN(ModelWeights weights, MakeWeights(random, model->config_));
    // The table is read a row for each token.
    model->step_bytes_ =
        random.bytes() -
        2 * int64_t{model->config_.vocab_size} * model->config_.hidden;
    RETURN_IF_ERROR(model->backend_->Prepare(max_rows, nullptr));
    ASSIGN_OR_RETURN(model->transformer_,
                     Transformer::Create(
                         *model->backend_, model->config_, std::move(weights),
                         {.max_rows = max_rows, .max_logit_rows = 64}));
    RETURN_IF_ERROR(model->backend_->EndStep());
    model->plan_.emplace(Transformer::PlanShape(model->config_));
    return model;
  }

  absl::Status SetPages(int32_t pages) {
    cache_.reset();
    ASSIGN_OR_RETURN(KvCache cache,
                     KvCache::Create(*backend_,
                                     {.layers = config_.layers,
                                      .kv_heads = config_.kv_heads,
                                      .head_dim = config_.head_dim,
                                      .dtype = backend_->device().kv_dtype,
                                      .bounds_keys = Runs(QuestPattern())},
                                     pages));
    cache_.emplace(std::move(cache));
    return absl::OkStatus();
  }

  // Whether the device chooses as the pattern does.
  bool Runs(const PatternSpec& pattern) const {
    return backend_->device().selection_rules.Has(*SelectionOf(pattern).rule);
  }
  bool Samples() const { return backend_->device().samples; }

  // Sequence s has pages that are not in the order of its positions. Runs
  // `count` tokens of each.
  absl::Status Run(int sequences, int first_position, int count, Phase phase,
                   const PatternSpec& pattern, Ending ending) {
    const int pages_each = (first_position + count + 63) / 64;
    std::vector<std::vector<PageId>> pages(sequences);
    std::vector<TokenId> tokens(count);
    for (int i = 0; i < count; ++i) tokens[i] = (i * 7919 + 13) % 128000;
    std::vector<StepSlice> slices(sequences);
    std::vector<PlannedSlice> planned;
    for (int s = 0; s < sequences; ++s) {
      for (int p = 0; p < pages_each; ++p) {
        pages[s].push_back((s * pages_each + (p * 17 + s) % pages_each) %
                           cache_->pages());
      }
      slices[s].sequence = s;
      slices[s].phase = phase;
      slices[s].tokens = tokens;
      slices[s].first_position = first_position;
      slices[s].pages = pages[s];
      slices[s].sampling = &sampling_;
      planned.push_back({&slices[s], pattern});
    }
    plan_->Build(planned);
    const std::function<double()> none;
    StageClock clock(none);
    StepTimes times;
    backend_->BeginStep(plan_->groups());
    transformer_->Forward(*plan_, *cache_, clock, times);
    std::vector<int32_t> rows;
    for (int s = 0; s < sequences; ++s) {
      rows.push_back(plan_->first_row(s) + count - 1);
    }
    if (ending == Ending::kDeviceTokens) {
      std::vector<const StepSlice*> sampled;
      for (const StepSlice& slice : slices) sampled.push_back(&slice);
      std::vector<SampledToken> drawn(rows.size());
      backend_->Sample(
          {transformer_->DeviceLogits(rows), sampled, absl::MakeSpan(drawn)});
      RETURN_IF_ERROR(backend_->EndStep());
    } else {
      const ConstMatrixView logits = transformer_->Logits(rows);
      RETURN_IF_ERROR(backend_->EndStep());
      for (int s = 0; s < sequences && ending == Ending::kHostTokens; ++s) {
        SliceResult drawn;
        RETURN_IF_ERROR(
            sampler_.Sample(absl::MakeConstSpan(logits.row(s), logits.columns),
                            slices[s], drawn));
      }
    }
    if (!backend_->device().shares_host_memory) plan_->TakeChosen();
    return absl::OkStatus();
  }

  // A prompt in chunks.
  absl::Status Prefill(int tokens, int chunk, const PatternSpec& pattern) {
    for (int first = 0; first < tokens; first += chunk) {
      RETURN_IF_ERROR(Run(1, first, std::min(chunk, tokens - first),
                          Phase::kPrefill, pattern, Ending::kLogits));
    }
    return absl::OkStatus();
  }

  const ModelConfig& config() const { return config_; }
  int64_t step_bytes() const { return step_bytes_; }
  std::string DeviceName() const {
    return absl::StrCat(backend_->device().name, " ", backend_->device().model);
  }

 private:
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> transformer_;
  std::optional<KvCache> cache_;
  std::optional<AttentionPlan> plan_;
  const SamplingParams sampling_ = {
      .temperature = 0.8f, .top_k = 50, .top_p = 0.95f};
  Sampler sampler_ = Sampler(Llama8B(1, 1).vocab_size);
  int64_t step_bytes_ = 0;
};

absl::StatusOr<double> Time(int repetitions,
                            absl::FunctionRef<absl::Status()> run) {
  std::vector<double> seconds;
  absl::Status status;
  for (int i = 0; i < repetitions + 3 && status.ok(); ++i) {
    const double took = Seconds([&] { status = run(); });
    if (i >= 3) seconds.push_back(took);
  }
  RETURN_IF_ERROR(status);
  return Median(std::move(seconds));
}

// Sinks and a window that visit about a tenth of what causality allows.
PatternSpec TenthOf(int tokens) {
  // Of n blocks, a window of w and one sink visit about n (w + 1) of n^2 / 2.
  const int window = std::max(tokens / 20 / 64 * 64 - 64, 64);
  return SinkWindowPattern{64, window + 1};
}

absl::Status RunAll() {
  std::vector<int> lengths;
  int most_tokens = 1024;
  for (const std::string& text : absl::GetFlag(FLAGS_prefill)) {
    int length = 0;
    if (!absl::SimpleAtoi(text, &length) || length < 64) {
      return absl::InvalidArgumentError(absl::StrCat("--prefill: ", text));
    }
    lengths.push_back(length);
    most_tokens = std::max(most_tokens, length);
  }
  std::vector<std::pair<int, int>> decodes;
  int64_t most_pages = (most_tokens + 63) / 64;
  for (const std::string& text : absl::GetFlag(FLAGS_decode)) {
    const std::vector<std::string> parts = absl::StrSplit(text, 'x');
    int sequences = 0;
    int depth = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &sequences) ||
        !absl::SimpleAtoi(parts[1], &depth) || sequences < 1 ||
        sequences > 64 || depth < 1) {
      return absl::InvalidArgumentError(absl::StrCat("--decode: ", text));
    }
    decodes.push_back({sequences, depth});
    most_tokens = std::max(most_tokens, depth + 1);
    most_pages =
        std::max<int64_t>(most_pages, int64_t{sequences} * ((depth + 64) / 64));
  }
  const int chunk = std::min(absl::GetFlag(FLAGS_chunk_tokens), most_tokens);
  const int repetitions = absl::GetFlag(FLAGS_repetitions);
  std::unique_ptr<Model> model;
  const double loading = Seconds([&] {
    auto made = Model::Create(absl::GetFlag(FLAGS_layers), most_tokens, chunk);
    if (made.ok())
      model = *std::move(made);
    else
      std::fprintf(stderr, "%s\n", made.status().ToString().c_str());
  });
  if (model == nullptr) return absl::InternalError("no model");
  RETURN_IF_ERROR(model->SetPages(static_cast<int32_t>(most_pages)));
  std::printf(
      "%s, Llama-3.1-8B's shape, %d layers, weights of %.2f GB made and "
      "loaded in %.1f s\n",
      model->DeviceName().c_str(), model->config().layers,
      static_cast<double>(model->step_bytes()) / 1e9, loading);
  std::ofstream csv(absl::GetFlag(FLAGS_csv));
  csv << "what,sequences,tokens,milliseconds\n";
  for (const int length : lengths) {
    double dense = 0;
    for (const bool sparse : {false, true}) {
      const PatternSpec pattern =
          sparse ? TenthOf(length) : PatternSpec(DensePattern());
      ASSIGN_OR_RETURN(const double seconds, Time(repetitions, [&] {
                         return model->Prefill(length, chunk, pattern);
                       }));
      if (!sparse) dense = seconds;
      std::printf("prefill %d %s: %.1f ms, %.3f of dense\n", length,
                  sparse ? "sparse" : "dense", seconds * 1e3, seconds / dense);
      csv << (sparse ? "prefill_sparse" : "prefill") << ",1," << length << ","
          << seconds * 1e3 << "\n";
      std::fflush(stdout);
    }
    const PatternSpec xattention = XAttentionPattern{.threshold = 0.5f};
    if (!model->Runs(xattention)) continue;
    ASSIGN_OR_RETURN(const double seconds, Time(repetitions, [&] {
                       return model->Prefill(length, chunk, xattention);
                     }));
    std::printf("prefill %d xattention: %.1f ms, %.3f of dense\n", length,
                seconds * 1e3, seconds / dense);
    csv << "prefill_xattention,1," << length << "," << seconds * 1e3 << "\n";
    std::fflush(stdout);
  }
  for (const auto& decode : decodes) {
    const int sequences = decode.first;
    const int depth = decode.second;
    ASSIGN_OR_RETURN(const double seconds, Time(3 * repetitions, [&] {
                       return model->Run(sequences, depth, 1, Phase::kDecode,
                                         DensePattern(), Ending::kLogits);
                     }));
    const double kv_bytes = 4.0 * model->config().layers *
                            model->config().kv_columns() * sequences * depth;
    const double weights = static_cast<double>(model->step_bytes()) / kCopyRate;
    std::printf(
        "decode %d x %d: %.3f ms, %.2f of weights / 4.26 TB/s, %.2f with keys "
        "and values\n",
        sequences, depth, seconds * 1e3, seconds / weights,
        seconds / (weights + kv_bytes / kCopyRate));
    csv << "decode," << sequences << "," << depth << "," << seconds * 1e3
        << "\n";
    std::fflush(stdout);
    const auto time_kind = [&](const char* kind, const PatternSpec& pattern,
                               Ending ending) -> absl::Status {
      ASSIGN_OR_RETURN(const double took, Time(3 * repetitions, [&] {
                         return model->Run(sequences, depth, 1, Phase::kDecode,
                                           pattern, ending);
                       }));
      std::printf("decode %d x %d %s: %.3f ms\n", sequences, depth, kind,
                  took * 1e3);
      csv << "decode_" << kind << "," << sequences << "," << depth << ","
          << took * 1e3 << "\n";
      std::fflush(stdout);
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(
        time_kind("host_tokens", DensePattern(), Ending::kHostTokens));
    if (!model->Samples()) continue;
    RETURN_IF_ERROR(
        time_kind("device_tokens", DensePattern(), Ending::kDeviceTokens));
    if (!model->Runs(QuestPattern())) continue;
    RETURN_IF_ERROR(time_kind("quest", QuestPattern(), Ending::kDeviceTokens));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace sparseserve

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("times whole steps of random weights");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = sparseserve::RunAll();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
