// How fast the engine is by itself, without server: prefill and decode at two
// lengths, many sequences against one, and peak memory. Rates are printed with
// their share of what the machine can do, measured in the same run: decode
// against reading the weights once per step at the bandwidth of memory,
// prefill against the rate of the library's large square matrix products.
//
//   engine_bench --compute_dtype=auto

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
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "tests/bench/machine_limits.h"
#include "tests/integration/engine_sequence.h"
#include "tests/testing/default_model.h"

ABSL_FLAG(std::string, model, "", "model file; empty takes the default model");
ABSL_FLAG(std::string, compute_dtype, "auto", "auto, f32 or bf16");
ABSL_FLAG(int, threads, 0, "CPU threads; 0 takes one per core");
ABSL_FLAG(int, decode_steps, 64, "decode steps per measurement");
ABSL_FLAG(int, repetitions, 3, "prefills per length; the median counts");

namespace sparseserve {
namespace {

constexpr int kConcurrent = 16;
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

  // Runs `steps` decode steps of all sequences; the median step's seconds.
  double Decode(int steps) {
    std::vector<double> seconds;
    for (int i = 0; i < steps; ++i) {
      StepPlan plan;
      for (EngineSequence& sequence : sequences_) {
        plan.slices.push_back(
            sequence.Next(Phase::kDecode, {&prompt_.front(), 1}));
        WantToken(plan);
      }
      seconds.push_back(
          Seconds([&] { SPARSESERVE_CHECK(RunStep(engine_, plan).ok()); }));
    }
    return Median(seconds);
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

struct LengthRates {
  int tokens;
  double prefill;  // tokens per second
  double decode;   // tokens per second, one sequence
};

LengthRates Measure(Engine& engine, int tokens) {
  const int steps = absl::GetFlag(FLAGS_decode_steps);
  std::vector<double> prefill;
  std::vector<double> decode;
  for (int i = 0; i < absl::GetFlag(FLAGS_repetitions); ++i) {
    Workload workload(engine, 1, tokens, steps);
    prefill.push_back(workload.Prefill());
    decode.push_back(workload.Decode(steps));
  }
  return {tokens, tokens / Median(prefill), 1 / Median(decode)};
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
  // but read the stored weights once and every sequence's KV.
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

absl::Status Run() {
  const std::string model = absl::GetFlag(FLAGS_model);
  const int steps = absl::GetFlag(FLAGS_decode_steps);
  Engine::Options options;
  options.model_path = model.empty() ? testing::DefaultModelPath() : model;
  options.compute_dtype = absl::GetFlag(FLAGS_compute_dtype);
  options.threads = absl::GetFlag(FLAGS_threads);
  if (options.threads == 0) {
    options.threads = static_cast<int>(std::thread::hardware_concurrency());
  }
  options.kv_cache_bytes = int64_t{1} << 30;
  options.max_step_tokens = kStepTokens;
  std::unique_ptr<Engine> engine;
  absl::Status status;
  const double load = Seconds([&] {
    absl::StatusOr<std::unique_ptr<Engine>> created = Engine::Create(options);
    status = created.status();
    if (status.ok()) engine = *std::move(created);
  });
  RETURN_IF_ERROR(status);
  std::printf("%s\nloaded in %.2f s\n", engine->DeviceSummary().c_str(), load);

  Workload(*engine, 1, kStepTokens, 1).Prefill();  // first touch of memory
  const std::vector<LengthRates> lengths = {Measure(*engine, 512),
                                            Measure(*engine, 2048)};
  Workload many(*engine, kConcurrent, lengths[0].tokens, steps);
  many.Prefill();
  const double concurrent = kConcurrent / many.Decode(steps);
  const double peak_memory = ProcessMegabytes("VmHWM");

  const Limits limits(*engine, options.threads);
  for (const LengthRates& rates : lengths) {
    const std::string at = absl::StrCat(" at ", rates.tokens, " tokens");
    PrintRate("prefill" + at, rates.prefill, limits.Prefill(rates.tokens));
    PrintRate("decode" + at, rates.decode, limits.Decode(1, rates.tokens));
  }
  PrintRate(absl::StrCat(kConcurrent, " decodes at ", lengths[0].tokens,
                         " tokens, total"),
            concurrent, limits.Decode(kConcurrent, lengths[0].tokens));
  std::printf("%d decodes against 1: %.2f times the tokens/s\n", kConcurrent,
              concurrent / lengths[0].decode);
  const MemoryUse memory = engine->memory();
  std::printf(
      "peak memory %.0f MB (mapped file %.0f, other weights %.0f, KV %.0f, "
      "activations %.0f)\n",
      peak_memory, memory.mapped_file_bytes / 1e6, memory.weights_bytes / 1e6,
      memory.kv_bytes / 1e6, memory.activations_bytes / 1e6);
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
