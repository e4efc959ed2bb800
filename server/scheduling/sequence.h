#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/kv/page_pool.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/chunk_rule.h"
#include "server/scheduling/ending.h"
#include "server/scheduling/output_text.h"
#include "server/scheduling/page_account.h"
#include "server/scheduling/recall_sampler.h"
#include "server/scheduling/request.h"
#include "server/scheduling/step_cost_model.h"

namespace sparseserve {

// A request in flight: waiting, then prefilling its prompt in chunks, then
// decoding a token a step, then ended. One that is preempted waits again, and
// then runs what it had, output too, anew, but for what its pages still hold.
// Owned by the Scheduler until it
// ended, then by whoever took it from there. Serving thread only.
//
// Output token ids are all tokens drawn, in order, but for the end token or
// stop token that ended the sequence; the tokens of a stop string are among
// them, even where the text is cut before it.
class Sequence {
 public:
  // A prompt that is measured takes up to three times as long a token: with so
  // few at a time, steps take others' tokens no longer than they do anyhow.
  static constexpr int kProfiledTokens = 128;

  struct Limits {
    int max_tokens = 0;  // of prompt and output together
    // Rows of a step that a prompt is sure to get, see ChunkRuleOf().
    int least_budget = kPageTokens;
  };
  // Borrows `tokenizer`. REQUIRES: a prompt of 1 ... max_tokens - 1 tokens,
  // max_output_tokens >= 1, a sink.
  Sequence(SequenceId id, std::unique_ptr<Request> request,
           const Limits& limits, const Tokenizer& tokenizer);

  SequenceId id() const { return id_; }
  const Request& request() const { return *request_; }
  Progress progress() const;
  bool ended() const { return ending_.has_value(); }
  const PageClaim& claim() const { return claim_; }
  PageClaim& claim() { return claim_; }
  const PageLease& lease() const { return claim_.lease(); }

  // Pages that the sequence can come to need.
  int pages_needed() const;
  // Pages that it needs to run `tokens` more.
  int pages_for(int tokens) const;
  // Begins behind what the pages of `claim` hold, or goes on after Preempt().
  // Returns how many tokens it computes again. REQUIRES: it holds no pages;
  // `claim` has pages_for(tokens_to_run()).
  int Start(PageClaim claim, absl::Time now);
  // Gives its pages back. Once started again it runs its prompt and its output
  // so far anew; what it draws then is the same. REQUIRES: may_preempt().
  void Preempt();
  // An explanation adds up what its prompt shows: it runs once.
  bool may_preempt() const { return request_->profile == nullptr; }
  int preemptions() const { return preemptions_; }
  int computed_tokens() const { return computed_tokens_; }
  // Those that ever had their keys and values: what is measured of their rows
  // is.
  int counted_tokens() const { return counted_tokens_; }
  // Output tokens since it began or last went on.
  int output_since_start() const { return output_tokens() - output_at_start_; }

  // Output tokens that it can still come to have.
  int output_left() const;
  // What it is sure to write yet, if nothing ends it before.
  int least_output_left() const;
  // When its first token was drawn.
  std::optional<absl::Time> first_token() const { return first_token_; }

  // Prompt and output so far.
  absl::Span<const TokenId> tokens() const { return tokens_; }
  // Tokens known so far without their keys and values.
  int tokens_to_run() const {
    return static_cast<int>(tokens_.size()) - computed_tokens_;
  }
  // While it waits: so many tokens at the start are expected to be there, and
  // not to be run.
  void ExpectHit(int tokens) { expected_hit_ = tokens; }
  // Of tokens_to_run(), without those.
  int tokens_expected() const;
  // Whether its next slice is the latest output token alone.
  bool is_decoding() const {
    return output_tokens() > 0 && tokens_to_run() == 1;
  }
  Phase phase() const {
    return computed_tokens_ < prompt_tokens() ? Phase::kPrefill
                                              : Phase::kDecode;
  }
  // Tokens that its next slice can carry if at most `budget` may run: one when
  // it decodes, else a chunk of the prompt that ends where its pattern may be
  // cut or is the last, or of output that is run anew. 0 if the budget is too
  // small.
  int NextTokens(int budget) const;
  // The least budget with which it gets any.
  int LeastTokens() const;
  // Those of the shortest step, which may cut a page in two.
  int ShortestTokens() const;
  // What its next `tokens` tokens make of a step, by the density so far.
  StepWork WorkOf(int tokens) const;
  // Likewise what tokens_expected() make of all steps until its next token.
  StepWork WorkAhead() const;
  // REQUIRES: it started; 0 < tokens <= NextTokens(...). Valid until the next
  // call that is not const.
  StepSlice Slice(int tokens) const;

  // What one slice added.
  struct Advanced {
    OutputPiece piece;
    // Between this output token and the one before.
    std::optional<absl::Duration> token_gap;
  };
  // Takes the result of the slice of `tokens` tokens; may end the sequence.
  Advanced Advance(int tokens, const SliceResult& result, absl::Time now);

  // Gives the pages back. An ending other than kFinished stands over an
  // earlier kFinished, whose end could not be delivered.
  void End(Ending ending, absl::Time now);
  // REQUIRES: ended(), for the rest.
  Ending ending() const { return *ending_; }
  FinishReport Report() const;  // REQUIRES: ending() == kFinished
  RequestSample Sample() const;
  // What was predicted on its arrival; none if nothing was.
  void SetPrediction(absl::Duration time_to_first_token) {
    predicted_time_to_first_token_ = time_to_first_token;
  }
  std::optional<absl::Duration> predicted_time_to_first_token() const {
    return predicted_time_to_first_token_;
  }
  // Null if its recall is not measured.
  const RecallSampler* recall() const { return recall_.get(); }

 private:
  int prompt_tokens() const {
    return static_cast<int>(request_->prompt.size());
  }
  int output_tokens() const {
    return static_cast<int>(tokens_.size()) - prompt_tokens();
  }
  StepWork WorkBehind(int begin, int tokens) const;
  // What a step gives it of `budget`.
  int MostTokens(int budget) const;
  bool may_stop() const;
  void Draw(const SliceResult& result, absl::Time now, Advanced& advanced);
  void Finish(FinishReason reason, absl::Time now);
  std::optional<absl::Duration> TimePerOutputToken() const;

  const SequenceId id_;
  const std::unique_ptr<Request> request_;
  const int max_tokens_;
  const ChunkRule chunk_rule_;
  const Tokenizer& tokenizer_;
  // Tokens that may not be drawn before the least length.
  std::vector<TokenId> banned_;

  std::vector<TokenId> tokens_;  // prompt, then output
  int computed_tokens_ = 0;      // the first so many have their keys and values
  int counted_tokens_ = 0;       // those that ever had, which count once
  // That it ran itself, but for those that it had to run again.
  int own_tokens_ = 0;
  int had_tokens_ = 0;  // computed_tokens_ when it was preempted
  int expected_hit_ = 0;
  // That it began behind, each time before it drew a token.
  int cached_prompt_tokens_ = 0;
  int preemptions_ = 0;
  int output_at_start_ = 0;
  std::optional<absl::Duration> predicted_time_to_first_token_;
  PageClaim claim_;
  OutputText text_;

  std::optional<Ending> ending_;
  FinishReason finish_reason_ = FinishReason::kStop;
  std::optional<absl::Time> started_;
  std::optional<absl::Time> first_token_;  // drawn, even if it is an end token
  absl::Time last_token_;                  // the latest output token
  absl::Time ended_;
  AttentionBlocks prefill_blocks_;
  AttentionBlocks decode_blocks_;
  bool is_reproducible_ = true;
  const std::unique_ptr<RecallSampler> recall_;  // may be null
  // The engine's, as long as the sequence lasts.
  const std::unique_ptr<KeptBlocks> kept_blocks_ =
      std::make_unique<KeptBlocks>();
};

}  // namespace sparseserve
