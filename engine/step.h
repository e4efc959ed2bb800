#pragma once

// The vocabulary between server and engine: ids and plain data. Includes
// nothing of ours, and anyone may include it.

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sparseserve {

using TokenId = int32_t;
using SequenceId = int64_t;
// Index of a physical page of KV storage, 0 <= id < number of pages.
using PageId = int32_t;

// Tokens that one page of KV storage holds.
inline constexpr int kPageTokens = 64;

// engine/pattern/attention_choice.h
struct AttentionChoice;
// engine/profile/attention_profile.h
class AttentionProfile;
// engine/pattern/kept_blocks.h
class KeptBlocks;

enum class Phase { kPrefill, kDecode };
inline constexpr int kPhases = 2;

// Why dense attention ran where a sparse plan was chosen or asked for.
enum class FallbackReason {
  kNone,
  kNotCalibrated,
  kShortSequence,
  kLowRecall,
  kUnsupportedMask,
  kUnsupportedShape,
  kKernelUnavailable,
  kNumericGuard,
  kPolicy,
  kRequestOverride,
};

// How a slice's last row becomes a token. Spans are borrowed until Step()
// returns.
struct SamplingParams {
  // 0 takes the most likely token; every filter below is then without effect.
  float temperature = 1.0f;
  int top_k = 0;       // 0 keeps all
  float top_p = 1.0f;  // smallest set whose probability reaches top_p
  float min_p = 0.0f;  // keeps p >= min_p * max(p)
  // Divides positive logits of tokens seen in prompt or output and multiplies
  // negative ones; 1 changes nothing.
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;   // subtracted once per output token seen
  float frequency_penalty = 0.0f;  // subtracted per occurrence in the output
  std::vector<std::pair<TokenId, float>> logit_bias;  // added to the logit
  uint64_t seed = 0;
  // Most likely alternatives to report per token; negative reports no
  // log-probability at all, 0 that of the chosen token alone.
  int logprobs = -1;
};

// One sequence's share of a step: `tokens` run at positions
// first_position, first_position + 1, ... against the sequence's pages.
// All spans are borrowed until Step() returns.
struct StepSlice {
  SequenceId sequence = 0;
  Phase phase = Phase::kPrefill;
  absl::Span<const TokenId> tokens;
  int first_position = 0;
  // pages[i] holds positions [64 i, 64 i + 64); covers all of `tokens`.
  absl::Span<const PageId> pages;

  // Which keys its rows may see; null: all. Borrowed like the spans.
  const AttentionChoice* attention = nullptr;
  // Of the sequence alone: what its output rows chose, which a pattern with
  // reuse_steps lets later ones use. A prompt's slice empties it, any other
  // drops what its own positions and those behind chose before; one of a single
  // output token then uses it and adds to it. Null: every row chooses.
  KeptBlocks* kept_blocks = nullptr;

  // Sample one token from the last row.
  bool wants_token = false;
  const SamplingParams* sampling = nullptr;  // not null if wants_token
  // Tokens that the penalties look at. `prompt` also says where the prompt
  // ends, for patterns that treat its end apart; if it is empty, the slice that
  // wants a token ends it. `output` also numbers the draw: token number
  // output.size() of the sequence.
  absl::Span<const TokenId> prompt;
  absl::Span<const TokenId> output;
  // Tokens that must not be drawn now (end tokens before the least length).
  absl::Span<const TokenId> banned;

  // Rows of `tokens` whose attention recall is measured, and where it goes:
  // [recall_rows.size(), layers, heads], the share of the weight of dense
  // attention that lies on the keys a row visited. Dense is over the queries
  // and keys of this step, whatever earlier layers left out. Needs
  // Engine::Options::measure_recall.
  absl::Span<const int32_t> recall_rows;
  absl::Span<float> recall;

  // If not null: what the slice adds to, as a part of its prompt. The slice
  // begins on a border of pages, and ends on one or with the prompt. Needs
  // Engine::Options::measure_recall.
  AttentionProfile* profile = nullptr;

  // If not empty: receives the raw logits of every row,
  // [tokens.size(), vocab_size], row-major.
  absl::Span<float> all_logits;
};

// What a page holds in all layers goes to another, before any slice runs.
struct PageCopy {
  PageId from = 0;
  PageId to = 0;
};

// One forward pass. Decode slices come first. A page that one slice writes is
// in no other's page table; any number of slices may read a page.
struct StepPlan {
  std::vector<StepSlice> slices;
  // Done in this order, whatever becomes of the slices.
  std::vector<PageCopy> page_copies = {};
};

struct TokenLogprob {
  TokenId token = 0;
  // Natural logarithm of the probability before temperature, penalties, bias
  // and filters.
  float logprob = 0.0f;
};

// KV blocks that attention visited, and that the causal mask allows, summed
// over layers, KV heads and query blocks. Density is computed / allowed.
struct AttentionBlocks {
  int64_t computed = 0;
  int64_t allowed = 0;
};

struct SliceResult {
  // Not OK: this slice alone failed; nothing of it may be used.
  absl::Status status;
  TokenId token = -1;                      // if wants_token
  TokenLogprob chosen;                     // if logprobs >= 0
  std::vector<TokenLogprob> alternatives;  // most likely first
  AttentionBlocks blocks;
};

// Where a step's time went. From the injected stopwatch, in seconds.
struct StepTimes {
  double embed = 0;
  double selection = 0;  // choosing blocks
  double attention = 0;  // the rest of attention
  double mlp = 0;        // every matrix product and norm outside attention
  double sampling = 0;
  double total = 0;
};

struct StepResult {
  std::vector<SliceResult> slices;  // same order as StepPlan::slices
  StepTimes times;
};

// Runs steps. Engine is one; tests have others. One thread calls it.
class StepExecutor {
 public:
  virtual ~StepExecutor() = default;
  // Runs one forward pass. KV writes are positional, so a slice can be redone
  // in the next step. INVALID_ARGUMENT: the plan as a whole is malformed (over
  // the limits of slices or rows, or a copy of a page that there is not) and
  // nothing ran. Any other status than OK
  // means that the device failed: callers drop every sequence in `plan`. A bad
  // slice (NaN, empty row) fails
  // alone, in its SliceResult::status; the others' results stand.
  virtual absl::StatusOr<StepResult> Step(const StepPlan& plan) = 0;
};

}  // namespace sparseserve
