// What sparse attention costs in quality and gives in time, on the default
// model and one long text:
//
//   frontier_bench --tokens=6144 --plans="xattention,8,0.95 xattention,8,0.9"
//
// A plan is a pattern with its parameters: dense, sink_window,SINK,WINDOW,
// tri_shape,SINK,WINDOW,DENSE_BLOCKS or
// xattention,STRIDE,THRESHOLD[,DENSE_LAYERS]. Every plan's rows are
// teacher-forced beside the dense run's in the same steps; columns are in
// tests/README.md.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/pattern/attention_choice.h"
#include "tests/integration/engine_sequence.h"
#include "tests/integration/golden_logits.h"
#include "tests/testing/default_model.h"

ABSL_FLAG(std::string, model, "", "model file; empty takes the default model");
ABSL_FLAG(int, tokens, 6144, "length of the prompt");
ABSL_FLAG(std::string, plans, "xattention,8,0.95 xattention,8,0.9",
          "plans, separated by spaces");
ABSL_FLAG(int, repeats, 1, "timed prefills of each plan; the least counts");
ABSL_FLAG(bool, quality, true, "compare logits and measure recall");

namespace sparseserve {
namespace {

constexpr int kChunkTokens = 512;   // of timed prefills
constexpr int kQualityTokens = 64;  // of a step that compares
// Every so many rows recall is measured, from the third block on.
constexpr int kRecallStride = 16;

struct Plan {
  std::string name;
  AttentionChoice choice;
  // Of the comparison, a value per row or per (row, layer, head).
  std::vector<double> divergences;
  std::vector<float> recalls;
  int same_top = 0;
  double logprob = 0;  // of the tokens that come next
  AttentionBlocks blocks;
  double seconds = 0;  // of the fastest prefill
  double attention_seconds = 0;
};

// The pattern whose text a plan is; false if it is none.
bool ParsePattern(const std::vector<std::string>& parts, PatternSpec& pattern) {
  const auto number = [&](size_t part, auto& value) {
    if constexpr (std::is_same_v<decltype(value), float&>) {
      return absl::SimpleAtof(parts[part], &value);
    } else {
      return absl::SimpleAtoi(parts[part], &value);
    }
  };
  const size_t count = parts.size();
  if (parts[0] == "dense") return count == 1;
  if (parts[0] == "sink_window" && count == 3) {
    auto& own = pattern.emplace<SinkWindowPattern>();
    return number(1, own.sink_tokens) && number(2, own.window_tokens);
  }
  if (parts[0] == "tri_shape" && count == 4) {
    auto& own = pattern.emplace<TriShapePattern>();
    return number(1, own.sink_tokens) && number(2, own.window_tokens) &&
           number(3, own.dense_blocks);
  }
  if (parts[0] == "xattention" && (count == 3 || count == 4)) {
    auto& own = pattern.emplace<XAttentionPattern>();
    return number(1, own.stride) && number(2, own.threshold) &&
           (count == 3 || number(3, own.dense_layers));
  }
  return false;
}

absl::StatusOr<Plan> ParsePlan(const std::string& text) {
  Plan plan;
  plan.name = text;
  if (!ParsePattern(absl::StrSplit(text, ','), plan.choice.pattern)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown plan ", text));
  }
  RETURN_IF_ERROR(CheckPattern(plan.choice.pattern));
  return plan;
}

// Logarithms of a softmax, in place of its logits.
std::vector<double> LogProbabilities(absl::Span<const float> logits) {
  const double maximum = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - maximum);
  const double lse = maximum + std::log(sum);
  std::vector<double> logs(logits.size());
  std::transform(logits.begin(), logits.end(), logs.begin(),
                 [lse](float logit) { return logit - lse; });
  return logs;
}

size_t ArgMax(absl::Span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

// One row of every plan; plans[0] is the dense run.
void CompareRow(std::vector<Plan>& plans,
                const std::vector<absl::Span<const float>>& logits,
                TokenId next) {
  const std::vector<double> dense = LogProbabilities(logits[0]);
  for (size_t p = 0; p < plans.size(); ++p) {
    const std::vector<double> ours = LogProbabilities(logits[p]);
    double divergence = 0;
    for (size_t i = 0; i < dense.size(); ++i) {
      divergence += std::exp(dense[i]) * (dense[i] - ours[i]);
    }
    plans[p].divergences.push_back(divergence);
    plans[p].same_top += ArgMax(logits[p]) == ArgMax(logits[0]);
    if (next >= 0) plans[p].logprob += ours[next];
  }
}

std::vector<int32_t> RecallRows(int first, int count) {
  std::vector<int32_t> rows;
  for (int row = 0; row < count; ++row) {
    if (first + row >= 2 * kPageTokens && row % kRecallStride == 0) {
      rows.push_back(row);
    }
  }
  return rows;
}

// `recalls` is [rows, layers, heads]. Layers that the plan keeps dense would
// only flatter it.
void AddRecalls(const ModelInfo& info, const std::vector<float>& recalls,
                Plan& plan) {
  const int first_layer = SelectionOf(plan.choice.pattern).first_layer;
  for (size_t i = 0; i < recalls.size(); ++i) {
    const int layer = static_cast<int>(i) / info.heads % info.layers;
    if (layer >= first_layer) plan.recalls.push_back(recalls[i]);
  }
}

// Runs all plans side by side, a block of every one in each step.
absl::Status Compare(Engine& engine, absl::Span<const TokenId> tokens,
                     std::vector<Plan>& plans) {
  const ModelInfo& info = engine.info();
  PagePool pool(engine.kv_pages());
  std::vector<std::unique_ptr<EngineSequence>> sequences;
  for (size_t p = 0; p < plans.size(); ++p) {
    sequences.push_back(std::make_unique<EngineSequence>(
        pool, static_cast<SequenceId>(p + 1), static_cast<int>(tokens.size())));
  }
  const size_t row_logits = static_cast<size_t>(kQualityTokens) *
                            static_cast<size_t>(info.vocab_size);
  std::vector<std::vector<float>> logits(plans.size(),
                                         std::vector<float>(row_logits));
  for (size_t first = 0; first < tokens.size(); first += kQualityTokens) {
    const auto chunk = tokens.subspan(first, kQualityTokens);
    const std::vector<int32_t> recall_rows =
        RecallRows(static_cast<int>(first), static_cast<int>(chunk.size()));
    std::vector<std::vector<float>> recalls(
        plans.size(),
        std::vector<float>(recall_rows.size() * info.layers * info.heads));
    StepPlan step;
    for (size_t p = 0; p < plans.size(); ++p) {
      step.slices.push_back(sequences[p]->Next(Phase::kPrefill, chunk));
      StepSlice& slice = step.slices.back();
      slice.attention = &plans[p].choice;
      slice.prompt = tokens;
      slice.all_logits =
          absl::MakeSpan(logits[p]).first(chunk.size() * info.vocab_size);
      slice.recall_rows = recall_rows;
      slice.recall = absl::MakeSpan(recalls[p]);
    }
    ASSIGN_OR_RETURN(const StepResult result, RunStep(engine, step));
    for (size_t p = 0; p < plans.size(); ++p) {
      plans[p].blocks.computed += result.slices[p].blocks.computed;
      plans[p].blocks.allowed += result.slices[p].blocks.allowed;
      AddRecalls(info, recalls[p], plans[p]);
    }
    for (size_t row = 0; row < chunk.size(); ++row) {
      std::vector<absl::Span<const float>> rows;
      for (size_t p = 0; p < plans.size(); ++p) {
        rows.push_back(absl::MakeConstSpan(logits[p]).subspan(
            row * info.vocab_size, info.vocab_size));
      }
      const size_t next = first + row + 1;
      CompareRow(plans, rows, next < tokens.size() ? tokens[next] : -1);
    }
  }
  return absl::OkStatus();
}

// Prefills the prompt as a server would, for its time.
absl::Status TimePrefill(Engine& engine, absl::Span<const TokenId> tokens,
                         Plan& plan) {
  PagePool pool(engine.kv_pages());
  EngineSequence sequence(pool, /*id=*/1, static_cast<int>(tokens.size()));
  SamplingParams sampling;
  sampling.temperature = 0;
  double seconds = 0;
  double attention_seconds = 0;
  for (size_t first = 0; first < tokens.size(); first += kChunkTokens) {
    StepPlan step;
    step.slices.push_back(
        sequence.Next(Phase::kPrefill, tokens.subspan(first, kChunkTokens)));
    step.slices[0].attention = &plan.choice;
    step.slices[0].prompt = tokens;
    step.slices[0].wants_token = first + kChunkTokens >= tokens.size();
    step.slices[0].sampling = &sampling;
    ASSIGN_OR_RETURN(const StepResult result, RunStep(engine, step));
    seconds += result.times.total;
    attention_seconds += result.times.attention;
  }
  if (plan.seconds == 0 || seconds < plan.seconds) {
    plan.seconds = seconds;
    plan.attention_seconds = attention_seconds;
  }
  return absl::OkStatus();
}

template <typename T>
double Mean(const std::vector<T>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(std::max<size_t>(values.size(), 1));
}

template <typename T>
double Quantile(std::vector<T> values, double share) {
  if (values.empty()) return 0;
  const auto at =
      static_cast<int64_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[at];
}

void Print(const std::vector<Plan>& plans) {
  const Plan& dense = plans[0];
  std::printf(
      "| plan | density | recall mean / p5 | KL mean / p99 | top-1 | "
      "perplexity | prefill s (of dense) | attention s (of dense) |\n"
      "|---|---|---|---|---|---|---|---|\n");
  for (const Plan& plan : plans) {
    const double rows = static_cast<double>(plan.divergences.size());
    std::printf(
        "| %s | %.3f | %.3f / %.3f | %.4f / %.3f | %.1f %% | %+.2f %% | "
        "%.2f (%.2f) | %.2f (%.2f) |\n",
        plan.name.c_str(),
        static_cast<double>(plan.blocks.computed) /
            static_cast<double>(std::max<int64_t>(plan.blocks.allowed, 1)),
        Mean(plan.recalls), Quantile(plan.recalls, 0.05),
        Mean(plan.divergences), Quantile(plan.divergences, 0.99),
        100 * plan.same_top / std::max(rows, 1.0),
        100 * std::expm1((dense.logprob - plan.logprob) /
                         std::max(rows - 1, 1.0)),
        plan.seconds, plan.seconds / dense.seconds, plan.attention_seconds,
        plan.attention_seconds / dense.attention_seconds);
  }
}

absl::StatusOr<std::unique_ptr<Engine>> Load() {
  Engine::Options options;
  options.model_path = absl::GetFlag(FLAGS_model).empty()
                           ? testing::DefaultModelPath()
                           : absl::GetFlag(FLAGS_model);
  options.compute_dtype = "f32";
  options.kv_cache_bytes = int64_t{4} << 30;
  options.measure_recall = true;
  options.max_step_tokens = 1024;
  options.stopwatch = [] {
    return std::chrono::duration<double>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  return Engine::Create(std::move(options));
}

absl::Status Run() {
  std::vector<Plan> plans(1);
  plans[0].name = "dense";
  for (const auto text :
       absl::StrSplit(absl::GetFlag(FLAGS_plans), ' ', absl::SkipEmpty())) {
    ASSIGN_OR_RETURN(Plan plan, ParsePlan(std::string(text)));
    plans.push_back(std::move(plan));
  }
  ASSIGN_OR_RETURN(const GoldenLogits golden,
                   ReadGoldenLogits("tests/golden/logits"));
  std::vector<TokenId> tokens;
  for (const GoldenText& text : golden.prose) {
    tokens.insert(tokens.end(), text.tokens.begin(), text.tokens.end());
  }
  const int wanted = absl::GetFlag(FLAGS_tokens);
  if (wanted < 1 || wanted > static_cast<int>(tokens.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tokens is ", wanted, "; allowed: 1 to ", tokens.size()));
  }
  tokens.resize(wanted);
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Load());
  std::printf("%d tokens of prose, %s\n", wanted,
              engine->DeviceSummary().c_str());
  for (int repeat = 0; repeat < absl::GetFlag(FLAGS_repeats); ++repeat) {
    for (Plan& plan : plans) {
      RETURN_IF_ERROR(TimePrefill(*engine, tokens, plan));
    }
  }
  if (absl::GetFlag(FLAGS_quality)) {
    RETURN_IF_ERROR(Compare(*engine, tokens, plans));
  }
  Print(plans);
  return absl::OkStatus();
}

}  // namespace
}  // namespace sparseserve

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("quality and time of sparse attention");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = sparseserve::Run();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
