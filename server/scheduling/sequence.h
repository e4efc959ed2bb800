#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/kv/page_pool.h"
#include "engine/pattern/kept_blocks.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/chunk_rule.h"
#include "server/scheduling/ending.h"
#include "server/scheduling/output_text.h"
#include "server/scheduling/recall_sampler.h"
#include "server/scheduling/request.h"

namespace sparseserve {

// A request in flight: waiting, then prefilling its prompt in chunks, then
// decoding a token a step, then ended. Owned by the Scheduler until it ended,
// then by whoever took it from there. Serving thread only.
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
  const PageLease& lease() const { return lease_; }

  // Pages that the sequence can come to need.
  int pages_needed() const;
  // REQUIRES: it waits; `lease` holds pages_needed() pages.
  void Start(PageLease lease, absl::Time now);

  // Tokens that its next slice can carry if at most `budget` may run: one when
  // it decodes, else a chunk of the prompt that ends where its pattern may be
  // cut or is the last. 0 if the budget is too small.
  int NextTokens(int budget) const;
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
  // Null if its recall is not measured.
  const RecallSampler* recall() const { return recall_.get(); }

 private:
  int prompt_tokens() const {
    return static_cast<int>(request_->prompt.size());
  }
  int output_tokens() const {
    return static_cast<int>(tokens_.size()) - prompt_tokens();
  }
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
  PageLease lease_;
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
