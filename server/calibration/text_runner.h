#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/engine.h"
#include "engine/kv/page_pool.h"
#include "engine/pattern/attention_choice.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/profile/dense_distribution.h"
#include "engine/step.h"
#include "server/calibration/head_choice.h"
#include "server/calibration/length_bands.h"
#include "server/calibration/text_measurement.h"

namespace sparseserve {

// Runs one text through an engine, first densely and then by plans, which it
// compares with that. The text is fed as it is, whatever the model would have
// said. All runs are cut into steps at the same places, so that what differs is
// the plans' doing. Owns the pages; one runner at a time uses an engine, which
// must outlive it and has measure_recall. For one thread.
class TextRunner {
 public:
  struct Options {
    // Of which the text reaches the ends of some, and [bands] the blocks of
    // each whose rows are compared, ascending.
    std::vector<LengthBand> bands;
    std::vector<std::vector<int>> counted;
    std::vector<LayerGroup> groups;  // of recall
    int chunk_tokens = 512;          // of a step whose rows nobody compares
  };

  // Runs the text densely, up to the end of the last band that it reaches.
  // INVALID_ARGUMENT if it reaches none; RESOURCE_EXHAUSTED if the engine has
  // not the pages for two runs of it. `tokens` is borrowed.
  static absl::StatusOr<std::unique_ptr<TextRunner>> Start(
      Engine& engine, absl::Span<const TokenId> tokens, Options options);

  int tokens() const { return static_cast<int>(tokens_.size()); }

  // All of it as a prompt. REQUIRES: the choice is selection-causal, and treats
  // a prompt's end as all else, so that shorter prompts are its beginnings.
  absl::StatusOr<TextMeasurement> RunPrompt(const AttentionChoice& choice);

  // Of each band one of the counted blocks, the middle one, as output behind a
  // dense prompt: [choices]. REQUIRES: they leave prompts dense.
  absl::StatusOr<std::vector<TextMeasurement>> RunOutput(
      absl::Span<const AttentionChoice> choices);

  // A part of the prompt behind a dense beginning: [choices] the share of its
  // blocks that were visited and the mean divergence of the rows of every other
  // block. REQUIRES: as for RunPrompt().
  absl::StatusOr<std::vector<HeadOption>> RunWindow(
      int first_block, int blocks, absl::Span<const AttentionChoice> choices);

 private:
  // One run among those that share a step.
  struct Run {
    const AttentionChoice* choice = nullptr;  // null: dense
    PageLease lease;
    KeptBlocks kept_blocks;
    std::vector<float> recalls;        // of the last step
    std::vector<float> logits;         // likewise, [rows, vocab_size]
    AttentionBlocks blocks;            // of the last step
    AttentionBlocks all_blocks;        // of all steps
    std::vector<std::vector<int>> of;  // [groups]: places in a row of recalls
  };
  // Which rows of a step.
  struct Rows {
    Phase phase = Phase::kPrefill;
    int first = 0;
    int count = 0;
    bool is_counted = false;
    std::vector<int32_t> recall_rows = {};
  };

  TextRunner(Engine& engine, absl::Span<const TokenId> tokens, Options options);

  absl::StatusOr<Run> MakeRun(const AttentionChoice* choice, Phase phase,
                              int shared_blocks, int blocks);
  absl::Status Step(const Rows& rows, absl::Span<Run> runs);
  // All of the text, and what to do with each counted block.
  absl::Status RunAll(Run& run,
                      const std::function<void(int band, int block)>& consume);
  void CountRow(int position, absl::Span<const float> logits,
                const DenseDistribution& dense, BandMeasurement& band) const;
  void CountRecalls(const Run& run, BandMeasurement& band) const;
  BandMeasurement EmptyBand() const;
  std::vector<int32_t> RecallRows(int first, int count) const;

  Engine& engine_;
  const absl::Span<const TokenId> tokens_;
  const Options options_;
  const int vocab_size_;
  PagePool pool_;
  PageLease dense_;  // keys and values of the dense run
  // Of counted blocks, in the order in which they come: each 64 rows.
  std::vector<std::vector<DenseDistribution>> dense_rows_;
};

}  // namespace sparseserve
