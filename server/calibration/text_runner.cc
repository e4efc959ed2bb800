#include "server/calibration/text_runner.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/policy/pattern_decision.h"

namespace sparseserve {
namespace {

// Every so many rows recall is measured, a block's last one among them.
constexpr int kRecallStride = 8;
// Runs of a window that share a step.
constexpr int kRunsTogether = 8;

// The bands that a text of so many tokens reaches the ends of.
std::vector<LengthBand> Reached(const std::vector<LengthBand>& bands,
                                size_t tokens) {
  std::vector<LengthBand> reached;
  for (const LengthBand& band : bands) {
    if (static_cast<size_t>(band.max_tokens()) <= tokens) {
      reached.push_back(band);
    }
  }
  return reached;
}

// [groups]: which of a row's recalls, [layers, heads], are of heads that follow
// a pattern.
std::vector<std::vector<int>> FollowingHeads(
    const AttentionChoice& choice, Phase phase, const ModelInfo& model,
    const std::vector<LayerGroup>& groups) {
  const auto dense = static_cast<int>(PatternSpec(DensePattern()).index());
  const std::vector<int> followed =
      FollowedHeadsOf(choice, model)[static_cast<int>(phase)];
  std::vector<std::vector<int>> places;
  for (const LayerGroup& group : groups) {
    std::vector<int>& own = places.emplace_back();
    for (int i = group.first_layer * model.heads;
         i < group.end_layer * model.heads; ++i) {
      if (followed[i] != dense) own.push_back(i);
    }
  }
  return places;
}

double DensityOf(const AttentionBlocks& blocks) {
  return static_cast<double>(blocks.computed) /
         static_cast<double>(std::max<int64_t>(blocks.allowed, 1));
}

}  // namespace

TextRunner::TextRunner(Engine& engine, absl::Span<const TokenId> tokens,
                       Options options)
    : engine_(engine),
      tokens_(tokens),
      options_(std::move(options)),
      vocab_size_(engine.info().vocab_size),
      pool_(engine.kv_pages()) {}

absl::StatusOr<std::unique_ptr<TextRunner>> TextRunner::Start(
    Engine& engine, absl::Span<const TokenId> tokens, Options options) {
  options.bands = Reached(options.bands, tokens.size());
  if (options.bands.empty()) {
    return absl::InvalidArgumentError(
        StrCat("a text has ", tokens.size(),
               " tokens, which reach the end of no band of lengths"));
  }
  options.counted.resize(options.bands.size());
  options.chunk_tokens =
      std::max(std::min(options.chunk_tokens, engine.max_step_tokens()) /
                   kPageTokens * kPageTokens,
               kPageTokens);
  const int blocks = options.bands.back().end_block;
  if (engine.kv_pages() < 2 * blocks + kRunsTogether) {
    return absl::ResourceExhaustedError(
        StrCat("the engine has ", engine.kv_pages(),
               " pages of keys and values, must have ",
               2 * blocks + kRunsTogether, " for texts of ",
               blocks * kPageTokens, " tokens: see --kv_cache_bytes"));
  }
  std::unique_ptr<TextRunner> runner(new TextRunner(
      engine, tokens.first(blocks * kPageTokens), std::move(options)));
  ASSIGN_OR_RETURN(Run dense,
                   runner->MakeRun(nullptr, Phase::kPrefill, 0, blocks));
  RETURN_IF_ERROR(runner->RunAll(dense, [&](int, int) {
    std::vector<DenseDistribution>& rows = runner->dense_rows_.emplace_back();
    const absl::Span<const float> logits = dense.logits;
    for (int row = 0; row < kPageTokens; ++row) {
      rows.emplace_back(
          logits.subspan(row * runner->vocab_size_, runner->vocab_size_));
    }
  }));
  runner->dense_ = std::move(dense.lease);
  return runner;
}

absl::StatusOr<TextRunner::Run> TextRunner::MakeRun(
    const AttentionChoice* choice, Phase phase, int shared_blocks, int blocks) {
  Run run;
  run.choice = choice;
  if (shared_blocks > 0) {
    pool_.Share(run.lease, dense_.pages().first(shared_blocks));
  }
  if (!pool_.Grow(run.lease, blocks)) {
    return absl::ResourceExhaustedError(
        StrCat("no ", blocks - shared_blocks,
               " pages of keys and values are free: see --kv_cache_bytes"));
  }
  if (choice != nullptr) {
    run.of = FollowingHeads(*choice, phase, engine_.info(), options_.groups);
  }
  return run;
}

absl::Status TextRunner::Step(const Rows& rows, absl::Span<Run> runs) {
  const ModelInfo& info = engine_.info();
  StepPlan plan;
  for (Run& run : runs) {
    StepSlice slice;
    slice.sequence = static_cast<SequenceId>(plan.slices.size() + 1);
    slice.phase = rows.phase;
    slice.tokens = tokens_.subspan(rows.first, rows.count);
    slice.first_position = rows.first;
    slice.pages = run.lease.pages();
    slice.attention = run.choice;
    slice.kept_blocks = &run.kept_blocks;
    slice.prompt = tokens_;
    if (rows.is_counted) {
      run.logits.resize(static_cast<size_t>(rows.count) * vocab_size_);
      slice.all_logits = absl::MakeSpan(run.logits);
    }
    if (run.choice != nullptr && !rows.recall_rows.empty()) {
      run.recalls.resize(rows.recall_rows.size() * info.layers * info.heads);
      slice.recall_rows = rows.recall_rows;
      slice.recall = absl::MakeSpan(run.recalls);
    }
    plan.slices.push_back(slice);
  }
  ASSIGN_OR_RETURN(const StepResult result, engine_.Step(plan));
  for (size_t i = 0; i < runs.size(); ++i) {
    RETURN_IF_ERROR(result.slices[i].status);
    runs[i].blocks = result.slices[i].blocks;
    runs[i].all_blocks.computed += runs[i].blocks.computed;
    runs[i].all_blocks.allowed += runs[i].blocks.allowed;
  }
  return absl::OkStatus();
}

std::vector<int32_t> TextRunner::RecallRows(int first, int count) const {
  std::vector<int32_t> rows;
  for (int row = 0; row < count; ++row) {
    if ((first + row + 1) % kRecallStride == 0) rows.push_back(row);
  }
  return rows;
}

absl::Status TextRunner::RunAll(
    Run& run, const std::function<void(int band, int block)>& consume) {
  int first = 0;
  const auto run_up_to = [&](int end) {
    while (first < end) {
      const int count = std::min(options_.chunk_tokens, end - first);
      RETURN_IF_ERROR(Step({.first = first, .count = count}, {&run, 1}));
      first += count;
    }
    return absl::OkStatus();
  };
  for (size_t band = 0; band < options_.bands.size(); ++band) {
    for (const int block : options_.counted[band]) {
      RETURN_IF_ERROR(run_up_to(block * kPageTokens));
      RETURN_IF_ERROR(Step({.first = first,
                            .count = kPageTokens,
                            .is_counted = true,
                            .recall_rows = RecallRows(first, kPageTokens)},
                           {&run, 1}));
      first += kPageTokens;
      consume(static_cast<int>(band), block);
    }
  }
  return run_up_to(tokens());
}

void TextRunner::CountRow(int position, absl::Span<const float> logits,
                          const DenseDistribution& dense,
                          BandMeasurement& band) const {
  const RowDivergence row = dense.Compare(logits);
  band.divergences.push_back(static_cast<float>(row.divergence));
  band.same_top += row.is_top_same;
  if (position + 1 >= tokens()) return;
  const TokenId next = tokens_[position + 1];
  band.log_probability += logits[next] - row.log_sum;
  band.dense_log_probability += dense.LogProbability(next);
  ++band.targets;
}

void TextRunner::CountRecalls(const Run& run, BandMeasurement& band) const {
  const size_t width =
      static_cast<size_t>(engine_.info().layers) * engine_.info().heads;
  for (size_t first = 0; first < run.recalls.size(); first += width) {
    for (size_t group = 0; group < run.of.size(); ++group) {
      double sum = 0;
      for (const int place : run.of[group]) sum += run.recalls[first + place];
      band.recalls[group].push_back(
          run.of[group].empty()
              ? 1.0f
              : static_cast<float>(sum /
                                   static_cast<double>(run.of[group].size())));
    }
  }
}

BandMeasurement TextRunner::EmptyBand() const {
  BandMeasurement band;
  band.recalls.resize(options_.groups.size());
  return band;
}

absl::StatusOr<TextMeasurement> TextRunner::RunPrompt(
    const AttentionChoice& choice) {
  SPARSESERVE_CHECK(TraitsOf(choice).is_selection_causal);
  ASSIGN_OR_RETURN(Run run, MakeRun(&choice, Phase::kPrefill, 0,
                                    options_.bands.back().end_block));
  TextMeasurement measured(options_.bands.size(), EmptyBand());
  size_t counted = 0;
  for (BandMeasurement& band : measured) band.density = 0;
  RETURN_IF_ERROR(RunAll(run, [&](int number, int block) {
    BandMeasurement& band = measured[number];
    const std::vector<DenseDistribution>& dense = dense_rows_[counted++];
    const absl::Span<const float> logits = run.logits;
    for (int row = 0; row < kPageTokens; ++row) {
      CountRow(block * kPageTokens + row,
               logits.subspan(row * vocab_size_, vocab_size_), dense[row],
               band);
    }
    CountRecalls(run, band);
    // Of the prompt that ends here.
    band.density += DensityOf(run.all_blocks) /
                    static_cast<double>(options_.counted[number].size());
  }));
  return measured;
}

absl::StatusOr<std::vector<TextMeasurement>> TextRunner::RunOutput(
    absl::Span<const AttentionChoice> choices) {
  std::vector<TextMeasurement> measured(choices.size());
  for (size_t number = 0; number < options_.bands.size(); ++number) {
    const std::vector<int>& counted = options_.counted[number];
    const int block = counted[counted.size() / 2];
    std::vector<Run> runs;
    // The dense run again: of output rows, with other steps than prompts have.
    ASSIGN_OR_RETURN(Run dense,
                     MakeRun(nullptr, Phase::kDecode, block, block + 1));
    runs.push_back(std::move(dense));
    for (size_t i = 0; i < choices.size(); ++i) {
      SPARSESERVE_CHECK(!TraitsOf(choices[i]).rules_prefill);
      ASSIGN_OR_RETURN(Run run,
                       MakeRun(&choices[i], Phase::kDecode, block, block + 1));
      runs.push_back(std::move(run));
      measured[i].push_back(EmptyBand());
    }
    for (int position = block * kPageTokens;
         position < (block + 1) * kPageTokens; ++position) {
      RETURN_IF_ERROR(Step({.phase = Phase::kDecode,
                            .first = position,
                            .count = 1,
                            .is_counted = true,
                            .recall_rows = RecallRows(position, 1)},
                           absl::MakeSpan(runs)));
      const DenseDistribution row(runs[0].logits);
      for (size_t i = 0; i < choices.size(); ++i) {
        const Run& run = runs[i + 1];
        BandMeasurement& band = measured[i].back();
        CountRow(position, run.logits, row, band);
        if (!RecallRows(position, 1).empty()) CountRecalls(run, band);
        band.density = DensityOf(run.all_blocks);
      }
    }
  }
  return measured;
}

absl::StatusOr<std::vector<HeadOption>> TextRunner::RunWindow(
    int first_block, int blocks, absl::Span<const AttentionChoice> choices) {
  SPARSESERVE_CHECK(first_block + blocks <= options_.bands.back().end_block);
  std::vector<std::vector<DenseDistribution>> dense_rows(blocks);
  const auto is_counted = [](int block) { return block % 2 == 1; };
  const auto rows_of = [&](int block) {
    return Rows{.first = (first_block + block) * kPageTokens,
                .count = kPageTokens,
                .is_counted = is_counted(block)};
  };
  {
    ASSIGN_OR_RETURN(Run dense, MakeRun(nullptr, Phase::kPrefill, first_block,
                                        first_block + blocks));
    for (int block = 0; block < blocks; ++block) {
      RETURN_IF_ERROR(Step(rows_of(block), {&dense, 1}));
      if (!is_counted(block)) continue;
      const absl::Span<const float> logits = dense.logits;
      for (int row = 0; row < kPageTokens; ++row) {
        dense_rows[block].emplace_back(
            logits.subspan(row * vocab_size_, vocab_size_));
      }
    }
  }
  const int together = std::max(
      1, std::min(kRunsTogether, engine_.max_step_tokens() / kPageTokens));
  std::vector<HeadOption> options;
  for (size_t next = 0; next < choices.size(); next += together) {
    std::vector<Run> runs;
    for (const AttentionChoice& choice : choices.subspan(next, together)) {
      ASSIGN_OR_RETURN(Run run, MakeRun(&choice, Phase::kPrefill, first_block,
                                        first_block + blocks));
      runs.push_back(std::move(run));
    }
    std::vector<double> divergences(runs.size(), 0);
    int rows = 0;
    for (int block = 0; block < blocks; ++block) {
      RETURN_IF_ERROR(Step(rows_of(block), absl::MakeSpan(runs)));
      if (!is_counted(block)) continue;
      for (int row = 0; row < kPageTokens; ++row) {
        for (size_t i = 0; i < runs.size(); ++i) {
          const absl::Span<const float> logits = runs[i].logits;
          divergences[i] +=
              dense_rows[block][row]
                  .Compare(logits.subspan(row * vocab_size_, vocab_size_))
                  .divergence;
        }
        ++rows;
      }
    }
    for (size_t i = 0; i < runs.size(); ++i) {
      options.push_back(
          {DensityOf(runs[i].all_blocks), divergences[i] / std::max(rows, 1)});
    }
  }
  return options;
}

}  // namespace sparseserve
