// What sparse attention costs in quality and gives in time, on the default
// model and one long text:
//
//   frontier_bench --tokens=6144 --plans="xattention,8,0.95 xattention,8,0.9"
//
// A plan is a pattern with its parameters: dense, sink_window,SINK,WINDOW,
// tri_shape,SINK,WINDOW,DENSE_BLOCKS,
// xattention,STRIDE,THRESHOLD[,DENSE_LAYERS],
// vertical_slash,COLUMNS,DIAGONALS[,DENSE_LAYERS],
// flex_prefill,GAMMA,TAU,MIN_BUDGET_TOKENS[,DENSE_LAYERS],
// similarity_gated,SIMILARITY,THRESHOLD[,DENSE_LAYERS],
// peak_weight,STRIDE,ROWS,THRESHOLD[,DENSE_LAYERS],
// quest,BUDGET_TOKENS[,DENSE_LAYERS[,REUSE_STEPS]],
// page_top_p,CANDIDATE_TOKENS,THRESHOLD[,DENSE_LAYERS[,REUSE_STEPS]],
// moba,BLOCK_TOKENS,TOP_K[,DENSE_LAYERS[,REUSE_STEPS]], delta,GAMMA,PATTERN:
// "delta,64,xattention,8,0.9", or skip_softmax,THRESHOLD,PATTERN; or
// triangle_mix,DENSE_LAYERS,SINK,WINDOW, DENSE_BLOCKS: the first layers dense,
// the others tri_shape. Every plan's rows are teacher-forced and compared with
// the dense run's; columns are in tests/README.md. A plan whose prompt must
// come whole runs in one step, which holds the logits of every row. With
// --decode_from the rows from there on run one by one, as output does, and they
// alone are counted.
//
// streaming,HEADS,SINK,WINDOW is sink_window in so many KV heads and dense
// attention in the others: in those that keep the most weight under it (the
// mean of their query heads) over the last 2,048 tokens of the prose, which are
// then no part of the prompt.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/pattern/attention_choice.h"
#include "engine/profile/attention_profile.h"
#include "engine/profile/dense_distribution.h"
#include "engine/profile/head_measures.h"
#include "tests/integration/engine_sequence.h"
#include "tests/integration/golden_logits.h"
#include "tests/testing/default_model.h"

ABSL_FLAG(std::string, model, "", "model file; empty takes the default model");
ABSL_FLAG(std::vector<std::string>, text, {},
          "files whose text is the prompt, one after another; none: prose");
ABSL_FLAG(std::string, compute_dtype, "f32", "auto, f32 or bf16");
ABSL_FLAG(int, tokens, 6144, "length of the prompt");
ABSL_FLAG(std::string, plans, "xattention,8,0.95 xattention,8,0.9",
          "plans, separated by spaces");
ABSL_FLAG(int, repeats, 1,
          "timed prefills of each plan, a dense one before each: medians");
ABSL_FLAG(int, decode_from, 0,
          "first token of the output, a multiple of 64; 0: all is prompt");
ABSL_FLAG(bool, quality, true, "compare logits and measure recall");

namespace sparseserve {
namespace {

constexpr int kChunkTokens = 512;   // of timed prefills
constexpr int kQualityTokens = 64;  // of a step that compares
// Every so many rows recall is measured, from the third block on.
constexpr int kRecallStride = 16;
// At the end of the prose, from which heads are chosen.
constexpr int kChoosingTokens = 2048;

struct Plan {
  std::string name;
  AttentionChoice choice;
  int first_layer = 0;  // that leaves something out
  // Of the comparison, a value per row or per (row, layer, head).
  std::vector<double> divergences;
  std::vector<float> recalls;
  int same_top = 0;
  double logprob = 0;  // of the tokens that come next
  AttentionBlocks blocks;
  // Of each timed prefill, and as share of a dense one right before it.
  struct Time {
    double total = 0;
    double attention = 0;  // with choosing blocks
  };
  std::vector<Time> seconds;
  std::vector<Time> shares;
};

// False if the pattern is none that another can be made of.
template <typename Base>
bool SetBase(const PatternSpec& pattern, Base& base) {
  return std::visit(
      [&base](const auto& own) {
        if constexpr (std::is_constructible_v<Base, decltype(own)>) {
          base = own;
          return true;
        } else {
          return false;
        }
      },
      pattern);
}

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
  if (parts[0] == "vertical_slash" && (count == 3 || count == 4)) {
    auto& own = pattern.emplace<VerticalSlashPattern>();
    return number(1, own.columns) && number(2, own.diagonals) &&
           (count == 3 || number(3, own.dense_layers));
  }
  if (parts[0] == "flex_prefill" && (count == 4 || count == 5)) {
    auto& own = pattern.emplace<FlexPrefillPattern>();
    return number(1, own.gamma) && number(2, own.tau) &&
           number(3, own.min_budget_tokens) &&
           (count == 4 || number(4, own.dense_layers));
  }
  if (parts[0] == "similarity_gated" && (count == 3 || count == 4)) {
    auto& own = pattern.emplace<SimilarityGatedPattern>();
    return number(1, own.similarity) && number(2, own.threshold) &&
           (count == 3 || number(3, own.dense_layers));
  }
  if (parts[0] == "peak_weight" && (count == 4 || count == 5)) {
    auto& own = pattern.emplace<PeakWeightPattern>();
    return number(1, own.stride) && number(2, own.rows) &&
           number(3, own.threshold) &&
           (count == 4 || number(4, own.dense_layers));
  }
  if (parts[0] == "quest" && count >= 2 && count <= 4) {
    auto& own = pattern.emplace<QuestPattern>();
    return number(1, own.budget_tokens) &&
           (count < 3 || number(2, own.dense_layers)) &&
           (count < 4 || number(3, own.reuse_steps));
  }
  if (parts[0] == "page_top_p" && count >= 3 && count <= 5) {
    auto& own = pattern.emplace<PageTopPPattern>();
    return number(1, own.candidate_tokens) && number(2, own.threshold) &&
           (count < 4 || number(3, own.dense_layers)) &&
           (count < 5 || number(4, own.reuse_steps));
  }
  if (parts[0] == "moba" && count >= 3 && count <= 5) {
    auto& own = pattern.emplace<MobaPattern>();
    return number(1, own.block_tokens) && number(2, own.top_k) &&
           (count < 4 || number(3, own.dense_layers)) &&
           (count < 5 || number(4, own.reuse_steps));
  }
  if (parts[0] == "delta" && count > 2) {
    auto& own = pattern.emplace<DeltaPattern>();
    PatternSpec base;
    return number(1, own.gamma) &&
           ParsePattern({parts.begin() + 2, parts.end()}, base) &&
           SetBase(base, own.base);
  }
  if (parts[0] == "skip_softmax" && count > 2) {
    auto& own = pattern.emplace<SkipSoftmaxPattern>();
    PatternSpec base;
    return number(1, own.threshold) &&
           ParsePattern({parts.begin() + 2, parts.end()}, base) &&
           SetBase(base, own.base);
  }
  return false;
}

// The map of a model's layers that a plan is: dense ones, then a pattern.
absl::StatusOr<PatternMap> DenseThen(const PatternSpec& pattern,
                                     int dense_layers, const ModelInfo& info) {
  std::vector<int32_t> pattern_of(info.layers * info.kv_heads, 0);
  for (int layer = dense_layers; layer < info.layers; ++layer) {
    std::fill_n(pattern_of.begin() + layer * info.kv_heads, info.kv_heads, 1);
  }
  return PatternMap::Create({info.layers, info.kv_heads},
                            {DensePattern(), pattern}, pattern_of);
}

// Whether the token at a position is output.
bool IsOutput(size_t position) {
  const int first = absl::GetFlag(FLAGS_decode_from);
  return first > 0 && position >= static_cast<size_t>(first);
}

size_t PromptTokens(size_t tokens) {
  const int first = absl::GetFlag(FLAGS_decode_from);
  return first > 0 ? static_cast<size_t>(first) : tokens;
}

// Whether what happens there is counted.
bool Counts(size_t position) {
  return absl::GetFlag(FLAGS_decode_from) == 0 || IsOutput(position);
}

struct StreamingHeads {
  int heads = 0;  // KV heads, of all layers together
  SinkWindowPattern pattern;
};

std::optional<StreamingHeads> ParseStreaming(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  StreamingHeads streaming;
  if (parts.size() != 4 || parts[0] != "streaming" ||
      !absl::SimpleAtoi(parts[1], &streaming.heads) ||
      !absl::SimpleAtoi(parts[2], &streaming.pattern.sink_tokens) ||
      !absl::SimpleAtoi(parts[3], &streaming.pattern.window_tokens)) {
    return std::nullopt;
  }
  return streaming;
}

// [layers, KV heads]: the weight that heads keep under a pattern, the mean of
// their query heads.
absl::StatusOr<std::vector<double>> KeptWeights(
    Engine& engine, absl::Span<const TokenId> tokens,
    const AttentionChoice& choice) {
  const ModelInfo& info = engine.info();
  const int prompt = static_cast<int>(tokens.size());
  AttentionProfile profile({.layers = info.layers,
                            .heads = info.heads,
                            .kv_heads = info.kv_heads,
                            .tokens = prompt},
                           {});
  PagePool pool(engine.kv_pages());
  EngineSequence sequence(pool, /*id=*/1, prompt);
  for (size_t first = 0; first < tokens.size(); first += kChunkTokens) {
    StepPlan step;
    step.slices.push_back(
        sequence.Next(Phase::kPrefill, tokens.subspan(first, kChunkTokens)));
    step.slices[0].attention = &choice;
    step.slices[0].profile = &profile;
    RETURN_IF_ERROR(RunStep(engine, step).status());
  }
  const int group = info.heads / info.kv_heads;
  std::vector<double> kept;
  for (int layer = 0; layer < info.layers; ++layer) {
    for (int head = 0; head < info.heads; ++head) {
      if (head % group == 0) kept.push_back(0);
      kept.back() += MeasuresOf(profile, layer, head).recall / group;
    }
  }
  return kept;
}

absl::StatusOr<Plan> StreamingPlan(Engine& engine, const std::string& text,
                                   const StreamingHeads& streaming,
                                   absl::Span<const TokenId> tokens) {
  const ModelInfo& info = engine.info();
  Plan plan;
  plan.name = text;
  plan.choice.pattern = streaming.pattern;
  RETURN_IF_ERROR(CheckPattern(plan.choice.pattern));
  ASSIGN_OR_RETURN(const std::vector<double> kept,
                   KeptWeights(engine, tokens, plan.choice));
  if (streaming.heads < 0 || streaming.heads > static_cast<int>(kept.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        text, " has ", streaming.heads, " heads; allowed: 0 to ", kept.size()));
  }
  std::vector<int32_t> order(kept.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return kept[a] > kept[b]; });
  std::vector<int32_t> pattern_of(kept.size(), 0);
  for (int i = 0; i < streaming.heads; ++i) pattern_of[order[i]] = 1;
  ASSIGN_OR_RETURN(
      PatternMap map,
      PatternMap::Create({info.layers, info.kv_heads},
                         {DensePattern{}, streaming.pattern}, pattern_of));
  plan.choice.map = std::make_shared<const PatternMap>(std::move(map));
  return plan;
}

absl::StatusOr<Plan> ParsePlan(const std::string& text, const ModelInfo& info) {
  Plan plan;
  plan.name = text;
  std::vector<std::string> parts = absl::StrSplit(text, ',');
  const bool is_mix = parts[0] == "triangle_mix" && parts.size() == 5;
  if (is_mix) {
    if (!absl::SimpleAtoi(parts[1], &plan.first_layer) ||
        plan.first_layer < 0) {
      return absl::InvalidArgumentError(absl::StrCat("unknown plan ", text));
    }
    parts = {"tri_shape", parts[2], parts[3], parts[4]};
  }
  if (!ParsePattern(parts, plan.choice.pattern)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown plan ", text));
  }
  RETURN_IF_ERROR(CheckPattern(plan.choice.pattern));
  if (is_mix) {
    ASSIGN_OR_RETURN(PatternMap map,
                     DenseThen(plan.choice.pattern, plan.first_layer, info));
    plan.choice.map = std::make_shared<const PatternMap>(std::move(map));
  } else {
    plan.first_layer = SelectionOf(plan.choice.pattern).first_layer;
  }
  if (absl::GetFlag(FLAGS_decode_from) > 0 &&
      !TraitsOf(plan.choice).is_selection_causal) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--decode_from is not for ", text, ", whose prompt must come whole"));
  }
  return plan;
}

// One row of every plan; plans[0] is the dense run.
void CompareRow(const std::vector<Plan*>& plans,
                const std::vector<absl::Span<const float>>& logits,
                TokenId next) {
  const DenseDistribution dense(logits[0]);
  for (size_t p = 0; p < plans.size(); ++p) {
    const RowDivergence row = dense.Compare(logits[p]);
    plans[p]->divergences.push_back(row.divergence);
    plans[p]->same_top += row.is_top_same;
    if (next >= 0) plans[p]->logprob += logits[p][next] - row.log_sum;
  }
}

std::vector<int32_t> RecallRows(int first, int count) {
  std::vector<int32_t> rows;
  for (int row = 0; row < count; ++row) {
    if (first + row >= 2 * kPageTokens && (first + row) % kRecallStride == 0) {
      rows.push_back(row);
    }
  }
  return rows;
}

// `recalls` is [rows, layers, heads]. Layers that the plan keeps dense would
// only flatter it.
void AddRecalls(const ModelInfo& info, const std::vector<float>& recalls,
                Plan& plan) {
  for (size_t i = 0; i < recalls.size(); ++i) {
    const int layer = static_cast<int>(i) / info.heads % info.layers;
    if (layer >= plan.first_layer) plan.recalls.push_back(recalls[i]);
  }
}

bool ComesWhole(const Plan& plan) {
  return !TraitsOf(plan.choice).is_selection_causal;
}

// One plan's run through the prompt.
struct Run {
  Plan* plan = nullptr;
  std::unique_ptr<EngineSequence> sequence;
  std::vector<float> logits;  // [rows of a step, vocabulary]
  std::vector<float> recalls;
};

Run StartRun(Engine& engine, PagePool& pool, SequenceId id, int tokens,
             Plan& plan) {
  const int rows = ComesWhole(plan) ? tokens : kQualityTokens;
  Run run;
  run.plan = &plan;
  run.sequence = std::make_unique<EngineSequence>(pool, id, tokens);
  run.logits.resize(static_cast<size_t>(rows) *
                    static_cast<size_t>(engine.info().vocab_size));
  return run;
}

// The next `count` tokens of a run, which the step then puts into it.
StepSlice NextSlice(const ModelInfo& info, absl::Span<const TokenId> tokens,
                    size_t first, size_t count,
                    const std::vector<int32_t>& recall_rows, Run& run) {
  run.recalls.assign(recall_rows.size() * info.layers * info.heads, 0.0f);
  StepSlice slice =
      run.sequence->Next(IsOutput(first) ? Phase::kDecode : Phase::kPrefill,
                         tokens.subspan(first, count));
  slice.attention = &run.plan->choice;
  slice.prompt = tokens;
  slice.all_logits = absl::MakeSpan(run.logits).first(count * info.vocab_size);
  slice.recall_rows = recall_rows;
  slice.recall = absl::MakeSpan(run.recalls);
  return slice;
}

void Count(const ModelInfo& info, const SliceResult& result, Run& run) {
  run.plan->blocks.computed += result.blocks.computed;
  run.plan->blocks.allowed += result.blocks.allowed;
  AddRecalls(info, run.recalls, *run.plan);
}

// Runs plans side by side, a block of every one in each step, but first those
// that come whole. runs[0] is the dense one.
absl::Status CompareRuns(Engine& engine, absl::Span<const TokenId> tokens,
                         std::vector<Run>& runs) {
  const ModelInfo& info = engine.info();
  for (Run& run : runs) {
    if (!ComesWhole(*run.plan)) continue;
    const std::vector<int32_t> rows =
        RecallRows(0, static_cast<int>(tokens.size()));
    StepPlan step;
    step.slices.push_back(NextSlice(info, tokens, 0, tokens.size(), rows, run));
    ASSIGN_OR_RETURN(const StepResult result, RunStep(engine, step));
    Count(info, result.slices[0], run);
  }
  size_t count = 0;
  for (size_t first = 0; first < tokens.size(); first += count) {
    count = IsOutput(first)
                ? 1
                : std::min<size_t>(kQualityTokens, tokens.size() - first);
    std::vector<int32_t> rows;
    if (Counts(first)) {
      rows = RecallRows(static_cast<int>(first), static_cast<int>(count));
    }
    StepPlan step;
    for (Run& run : runs) {
      if (ComesWhole(*run.plan)) continue;
      step.slices.push_back(NextSlice(info, tokens, first, count, rows, run));
    }
    ASSIGN_OR_RETURN(const StepResult result, RunStep(engine, step));
    if (!Counts(first)) continue;
    size_t slice = 0;
    for (Run& run : runs) {
      if (!ComesWhole(*run.plan)) Count(info, result.slices[slice++], run);
    }
    for (size_t row = 0; row < count; ++row) {
      std::vector<absl::Span<const float>> logits;
      std::vector<Plan*> plans;
      for (const Run& run : runs) {
        const size_t at = row + (ComesWhole(*run.plan) ? first : 0);
        logits.push_back(absl::MakeConstSpan(run.logits)
                             .subspan(at * info.vocab_size, info.vocab_size));
        plans.push_back(run.plan);
      }
      const size_t next = first + row + 1;
      CompareRow(plans, logits, next < tokens.size() ? tokens[next] : -1);
    }
  }
  return absl::OkStatus();
}

absl::Status Compare(Engine& engine, absl::Span<const TokenId> tokens,
                     std::vector<Plan>& plans) {
  // Those that come whole take turns: each holds the logits of all rows.
  std::vector<std::vector<Plan*>> turns(1);
  for (Plan& plan : plans) {
    if (ComesWhole(plan)) {
      turns.push_back({&plan});
    } else {
      turns[0].push_back(&plan);
    }
  }
  for (size_t turn = 0; turn < turns.size(); ++turn) {
    Plan dense;
    if (turn > 0) turns[turn].insert(turns[turn].begin(), &dense);
    PagePool pool(engine.kv_pages());
    std::vector<Run> runs;
    for (Plan* plan : turns[turn]) {
      runs.push_back(StartRun(engine, pool,
                              static_cast<SequenceId>(runs.size() + 1),
                              static_cast<int>(tokens.size()), *plan));
    }
    RETURN_IF_ERROR(CompareRuns(engine, tokens, runs));
  }
  return absl::OkStatus();
}

// Runs the tokens as a server would, for its time.
absl::StatusOr<Plan::Time> TimeRun(Engine& engine,
                                   absl::Span<const TokenId> tokens,
                                   const Plan& plan) {
  PagePool pool(engine.kv_pages());
  EngineSequence sequence(pool, /*id=*/1, static_cast<int>(tokens.size()));
  SamplingParams sampling;
  sampling.temperature = 0;
  Plan::Time seconds;
  size_t chunk = 0;
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    chunk = ComesWhole(plan)  ? tokens.size()
            : IsOutput(first) ? 1
                              : std::min(PromptTokens(tokens.size()) - first,
                                         size_t{kChunkTokens});
    StepPlan step;
    step.slices.push_back(
        sequence.Next(IsOutput(first) ? Phase::kDecode : Phase::kPrefill,
                      tokens.subspan(first, chunk)));
    step.slices[0].attention = &plan.choice;
    step.slices[0].prompt = tokens;
    step.slices[0].wants_token = first + chunk >= tokens.size();
    step.slices[0].sampling = &sampling;
    ASSIGN_OR_RETURN(const StepResult result, RunStep(engine, step));
    if (!Counts(first)) continue;
    seconds.total += result.times.total;
    seconds.attention += result.times.selection + result.times.attention;
  }
  return seconds;
}

// A machine that others share is slower in one minute than in the next, but
// hardly so from one run to the next.
absl::Status TimeBesideDense(Engine& engine, absl::Span<const TokenId> tokens,
                             Plan& dense, Plan& plan) {
  ASSIGN_OR_RETURN(const Plan::Time before, TimeRun(engine, tokens, dense));
  dense.seconds.push_back(before);
  dense.shares.push_back({1, 1});
  if (&plan == &dense) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Plan::Time took, TimeRun(engine, tokens, plan));
  plan.seconds.push_back(took);
  plan.shares.push_back(
      {took.total / before.total, took.attention / before.attention});
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

double Median(const std::vector<Plan::Time>& times, double Plan::Time::*part) {
  std::vector<double> values;
  for (const Plan::Time& time : times) values.push_back(time.*part);
  return Quantile(values, 0.5);
}

void Print(const std::vector<Plan>& plans) {
  const Plan& dense = plans[0];
  std::printf(
      "| plan | density | recall mean / p5 | KL mean / p99 | top-1 | "
      "perplexity | s (of dense) | attention s (of dense) |\n"
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
        Median(plan.seconds, &Plan::Time::total),
        Median(plan.shares, &Plan::Time::total),
        Median(plan.seconds, &Plan::Time::attention),
        Median(plan.shares, &Plan::Time::attention));
  }
}

absl::StatusOr<std::unique_ptr<Engine>> Load() {
  Engine::Options options;
  options.model_path = absl::GetFlag(FLAGS_model).empty()
                           ? testing::DefaultModelPath()
                           : absl::GetFlag(FLAGS_model);
  options.compute_dtype = absl::GetFlag(FLAGS_compute_dtype);
  options.kv_cache_bytes = int64_t{4} << 30;
  options.measure_recall = true;
  options.max_step_tokens = std::max(1024, absl::GetFlag(FLAGS_tokens));
  options.stopwatch = [] {
    return std::chrono::duration<double>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  return Engine::Create(std::move(options));
}

absl::StatusOr<std::vector<TokenId>> ReadText(const Engine& engine) {
  std::string text;
  for (const std::string& path : absl::GetFlag(FLAGS_text)) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
    text.append(std::istreambuf_iterator<char>(file), {});
  }
  return engine.tokenizer().Encode(text, /*parse_special=*/false);
}

absl::StatusOr<std::vector<Plan>> ReadPlans(Engine& engine,
                                            absl::Span<const TokenId> prose) {
  std::vector<Plan> plans(1);
  plans[0].name = "dense";
  for (const auto part :
       absl::StrSplit(absl::GetFlag(FLAGS_plans), ' ', absl::SkipEmpty())) {
    const std::string text(part);
    if (const auto streaming = ParseStreaming(text)) {
      ASSIGN_OR_RETURN(Plan plan, StreamingPlan(engine, text, *streaming,
                                                prose.last(kChoosingTokens)));
      plans.push_back(std::move(plan));
    } else {
      ASSIGN_OR_RETURN(Plan plan, ParsePlan(text, engine.info()));
      plans.push_back(std::move(plan));
    }
  }
  return plans;
}

absl::Status RunBench() {
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Load());
  ASSIGN_OR_RETURN(const GoldenLogits golden,
                   ReadGoldenLogits("tests/golden/logits"));
  std::vector<TokenId> prose;
  for (const GoldenText& text : golden.prose) {
    prose.insert(prose.end(), text.tokens.begin(), text.tokens.end());
  }
  const bool is_prose = absl::GetFlag(FLAGS_text).empty();
  std::vector<TokenId> tokens = prose;
  if (is_prose) {
    tokens.resize(tokens.size() - kChoosingTokens);
  } else {
    ASSIGN_OR_RETURN(tokens, ReadText(*engine));
  }
  const int wanted = absl::GetFlag(FLAGS_tokens);
  if (wanted < 1 || wanted > static_cast<int>(tokens.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tokens is ", wanted, "; allowed: 1 to ", tokens.size()));
  }
  const int output = absl::GetFlag(FLAGS_decode_from);
  if (output < 0 || output >= wanted || output % kPageTokens != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--decode_from is ", output,
                     "; allowed: multiples of 64 below ", wanted));
  }
  tokens.resize(wanted);
  ASSIGN_OR_RETURN(std::vector<Plan> plans, ReadPlans(*engine, prose));
  std::printf("%d tokens of %s, %s\n", wanted,
              is_prose ? "prose"
                       : absl::StrJoin(absl::GetFlag(FLAGS_text), ", ").c_str(),
              engine->DeviceSummary().c_str());
  for (int repeat = 0; repeat < absl::GetFlag(FLAGS_repeats); ++repeat) {
    for (Plan& plan : plans) {
      RETURN_IF_ERROR(TimeBesideDense(*engine, tokens, plans[0], plan));
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
  const absl::Status status = sparseserve::RunBench();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
