// How fast the engine is by itself, without server: prefill at some lengths,
// decode at some depths, many sequences against one, and peak memory. Rates are
// printed with their share of what the machine can do, measured in the same
// run: decode against reading the weights once per step at the bandwidth of
// memory, prefill against the rate of the library's large square matrix
// products.
//
//   engine_bench --compute_dtype=auto
//   engine_bench --prefill=128,8192 --depths=0,7680 --json

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "tests/bench/machine_limits.h"
#include "tests/integration/engine_sequence.h"
#include "tests/testing/default_model.h"

ABSL_FLAG(std::string, model, "", "model file; empty takes the default model");
ABSL_FLAG(std::string, compute_dtype, "auto", "auto, f32 or bf16");
ABSL_FLAG(int, threads, 0, "CPU threads; 0 takes one per core");
ABSL_FLAG(std::string, simd, "auto", "widest instructions: auto, avx2, ...");
ABSL_FLAG(std::vector<std::string>, prefill,
          (std::vector<std::string>{"512", "2048"}),
          "prompt lengths in tokens");
ABSL_FLAG(std::vector<std::string>, depths,
          (std::vector<std::string>{"512", "2048"}),
          "tokens before the first decode step; 0 counts as 1");
ABSL_FLAG(
    std::vector<std::string>, together, (std::vector<std::string>{"16"}),
    "sequences that decode together, 1 to 16, each 512 tokens deep; empty "
    "for none");
ABSL_FLAG(bool, json, false,
          "print one JSON object of rates instead, without the limits");
ABSL_FLAG(int, pruned_layers, 0,
          "first layers whose first KV head is left out of the model");
ABSL_FLAG(int, decode_steps, 64, "decode steps per measurement");
ABSL_FLAG(int, repetitions, 3, "prefills per length; the median counts");

namespace sparseserve {
namespace {

constexpr int kMaxTogether = 16;
constexpr int kTogetherDepth = 512;
constexpr int kStepTokens = 512;

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

// A line such as "VmHWM:   123 kB" of /proc/self/status, in MB.
double ProcessMegabytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  std::string word;
  double kilobytes = 0;
  while (status >> word) {
    if (word == key + ":") status >> kilobytes;
  }
  return kilobytes * 1024 / 1e6;
}

// Sequences of one length, run side by side.
class Workload {
 public:
  Workload(Engine& engine, int sequences, int prompt_tokens, int decode_steps)
      : engine_(engine), pool_(engine.kv_pages()) {
    most_likely_.temperature = 0;
    for (int i = 0; i < sequences; ++i) {
      sequences_.emplace_back(pool_, i + 1, prompt_tokens + decode_steps);
    }
    for (int i = 0; i < prompt_tokens; ++i) {
      prompt_.push_back((7919 * i + 13) % engine.info().vocab_size);
    }
  }

  // Runs every prompt, one after another; seconds for all.
  double Prefill() {
    return Seconds([&] {
      for (EngineSequence& sequence : sequences_) {
        const absl::Span<const TokenId> prompt = prompt_;
        for (size_t first = 0; first < prompt.size(); first += kStepTokens) {
          StepPlan plan;
          plan.slices.push_back(sequence.Next(
              Phase::kPrefill, prompt.subspan(first, kStepTokens)));
          if (first + kStepTokens >= prompt.size()) WantToken(plan);
          SPARSESERVE_CHECK(RunStep(engine_, plan).ok());
        }
      }
    });
  }

  // Runs `steps` decode steps of all sequences; seconds for all.
  double Decode(int steps) {
    double seconds = 0;
    for (int i = 0; i < steps; ++i) {
      StepPlan plan;
      for (EngineSequence& sequence : sequences_) {
        plan.slices.push_back(
            sequence.Next(Phase::kDecode, {&prompt_.front(), 1}));
        WantToken(plan);
      }
      seconds +=
          Seconds([&] { SPARSESERVE_CHECK(RunStep(engine_, plan).ok()); });
    }
    return seconds;
  }

 private:
  void WantToken(StepPlan& plan) {
    plan.slices.back().wants_token = true;
    plan.slices.back().sampling = &most_likely_;
  }

  Engine& engine_;
  PagePool pool_;
  SamplingParams most_likely_;
  std::vector<EngineSequence> sequences_;
  std::vector<TokenId> prompt_;
};

// Tokens per second at a prompt length, a depth, or a number of sequences.
struct Rate {
  int at;
  double tokens_per_second;
};

struct Rates {
  std::vector<Rate> prefill;
  std::vector<Rate> decode;    // of one sequence
  std::vector<Rate> together;  // of `at` sequences, in total
};

double PrefillRate(Engine& engine, int tokens) {
  std::vector<double> seconds;
  for (int i = 0; i < absl::GetFlag(FLAGS_repetitions); ++i) {
    seconds.push_back(Workload(engine, 1, tokens, 0).Prefill());
  }
  return tokens / Median(seconds);
}

double DecodeRate(Engine& engine, int sequences, int depth) {
  const int steps = absl::GetFlag(FLAGS_decode_steps);
  std::vector<double> seconds;
  for (int i = 0; i < absl::GetFlag(FLAGS_repetitions); ++i) {
    Workload workload(engine, sequences, std::max(depth, 1), steps);
    workload.Prefill();
    seconds.push_back(workload.Decode(steps));
  }
  return sequences * steps / Median(seconds);
}

absl::StatusOr<std::vector<int>> Numbers(const std::vector<std::string>& texts,
                                         absl::string_view of, int least,
                                         int greatest) {
  std::vector<int> numbers;
  for (const std::string& text : texts) {
    int number = 0;
    if (!absl::SimpleAtoi(text, &number) || number < least ||
        number > greatest) {
      return absl::InvalidArgumentError(absl::StrCat(
          text, " is no number of ", of, " from ", least, " to ", greatest));
    }
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<Rates> Measure(Engine& engine) {
  const int context = engine.info().context_tokens;
  const int steps = absl::GetFlag(FLAGS_decode_steps);
  ASSIGN_OR_RETURN(const std::vector<int> prompts,
                   Numbers(absl::GetFlag(FLAGS_prefill), "tokens", 0, context));
  ASSIGN_OR_RETURN(
      const std::vector<int> depths,
      Numbers(absl::GetFlag(FLAGS_depths), "tokens", 0, context - steps));
  ASSIGN_OR_RETURN(
      const std::vector<int> together,
      Numbers(absl::GetFlag(FLAGS_together), "sequences", 1, kMaxTogether));
  Workload(engine, 1, kStepTokens, 1).Prefill();  // first touch of memory
  Rates rates;
  for (const int tokens : prompts) {
    rates.prefill.push_back({tokens, PrefillRate(engine, tokens)});
  }
  for (const int depth : depths) {
    rates.decode.push_back({depth, DecodeRate(engine, 1, depth)});
  }
  for (const int sequences : together) {
    rates.together.push_back(
        {sequences, DecodeRate(engine, sequences, kTogetherDepth)});
  }
  return rates;
}

// What a token costs at least, on this machine.
class Limits {
 public:
  Limits(const Engine& engine, int threads) : model_(engine.info()) {
    const bool bf16 = engine.compute_dtype() == "bf16";
    bandwidth_ = ReadBandwidth(threads);
    product_rate_ = SquareProductRate(bf16, threads);
    std::printf("limits: memory reads %.1f GB/s, %s products %.0f GFLOP/s\n",
                bandwidth_ / 1e9, bf16 ? "bf16" : "f32", product_rate_ / 1e9);
    const MemoryUse memory = engine.memory();
    weight_bytes_ = memory.mapped_file_bytes;
    kv_token_bytes_ =
        static_cast<double>(memory.kv_bytes) / engine.kv_pages() / kPageTokens;
    const int64_t embedding =
        int64_t{model_.vocab_size} * model_.heads * model_.head_dim;
    layer_parameters_ = static_cast<double>(model_.parameters - embedding);
  }

  // Tokens per second if a step of `sequences` at `context` tokens did nothing
  // but read the stored weights once and every sequence's KV. Packed ones are
  // up to a ninth larger, in formats whose blocks are no multiple of 4 bytes.
  double Decode(int sequences, int context) const {
    const double kv_bytes = kv_token_bytes_ * sequences * context;
    return sequences * bandwidth_ / (weight_bytes_ + kv_bytes);
  }

  // Tokens per second if the layers' products and attention over the causal
  // half ran at the rate of the library's product.
  double Prefill(int tokens) const {
    const double attention =
        4.0 * model_.layers * model_.heads * model_.head_dim * (tokens + 1) / 2;
    return product_rate_ / (2.0 * layer_parameters_ + attention);
  }

 private:
  const ModelInfo& model_;
  double bandwidth_ = 0;     // bytes per second
  double product_rate_ = 0;  // FLOP/s
  double weight_bytes_ = 0;
  double kv_token_bytes_ = 0;
  double layer_parameters_ = 0;
};

void PrintRate(const std::string& what, double rate, double limit) {
  std::printf("%s: %.1f tokens/s, %.2f of the limit %.0f\n", what.c_str(), rate,
              rate / limit, limit);
}

void PrintJson(const Engine& engine, const Rates& rates, double peak_memory) {
  std::printf("{\"device\": \"%s\"", engine.DeviceSummary().c_str());
  for (const Rate& rate : rates.prefill) {
    std::printf(", \"prefill %d\": %.2f", rate.at, rate.tokens_per_second);
  }
  for (const Rate& rate : rates.decode) {
    std::printf(", \"decode %d\": %.2f", rate.at, rate.tokens_per_second);
  }
  for (const Rate& rate : rates.together) {
    std::printf(", \"together %d\": %.2f", rate.at, rate.tokens_per_second);
  }
  std::printf(", \"peak MB\": %.0f}\n", peak_memory);
}

void PrintShares(const Engine& engine, int threads, const Rates& rates) {
  const Limits limits(engine, threads);
  for (const Rate& rate : rates.prefill) {
    PrintRate(absl::StrCat("prefill of ", rate.at, " tokens"),
              rate.tokens_per_second, limits.Prefill(rate.at));
  }
  for (const Rate& rate : rates.decode) {
    PrintRate(absl::StrCat("decode at ", rate.at, " tokens"),
              rate.tokens_per_second, limits.Decode(1, rate.at));
  }
  for (const Rate& rate : rates.together) {
    PrintRate(
        absl::StrCat(rate.at, " decodes at ", kTogetherDepth, " tokens, total"),
        rate.tokens_per_second, limits.Decode(rate.at, kTogetherDepth));
  }
}

void PrintMemory(const MemoryUse& memory, double peak_memory) {
  std::printf(
      "peak memory %.0f MB (mapped file %.0f, other weights %.0f, KV %.0f, "
      "activations %.0f)\n",
      peak_memory, memory.mapped_file_bytes / 1e6, memory.weights_bytes / 1e6,
      memory.kv_bytes / 1e6, memory.activations_bytes / 1e6);
}

absl::Status Run() {
  const std::string model = absl::GetFlag(FLAGS_model);
  Engine::Options options;
  options.model_path = model.empty() ? testing::DefaultModelPath() : model;
  options.compute_dtype = absl::GetFlag(FLAGS_compute_dtype);
  options.simd = absl::GetFlag(FLAGS_simd);
  options.threads = absl::GetFlag(FLAGS_threads);
  if (options.threads == 0) {
    options.threads = static_cast<int>(std::thread::hardware_concurrency());
  }
  options.kv_cache_bytes = int64_t{1} << 30;
  options.max_step_tokens = kStepTokens;
  for (int layer = 0; layer < absl::GetFlag(FLAGS_pruned_layers); ++layer) {
    options.pruned_heads.push_back({layer, {0}});
  }
  std::unique_ptr<Engine> engine;
  absl::Status status;
  const double load = Seconds([&] {
    absl::StatusOr<std::unique_ptr<Engine>> created = Engine::Create(options);
    status = created.status();
    if (status.ok()) engine = *std::move(created);
  });
  RETURN_IF_ERROR(status);
  ASSIGN_OR_RETURN(const Rates rates, Measure(*engine));
  const double peak_memory = ProcessMegabytes("VmHWM");
  if (absl::GetFlag(FLAGS_json)) {
    PrintJson(*engine, rates, peak_memory);
    return absl::OkStatus();
  }
  std::printf("%s\nloaded in %.2f s\n", engine->DeviceSummary().c_str(), load);
  PrintShares(*engine, options.threads, rates);
  PrintMemory(engine->memory(), peak_memory);
  return absl::OkStatus();
}

}  // namespace
}  // namespace sparseserve

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("measures the engine by itself");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = sparseserve::Run();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
