#include "server/scheduling/sequence.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/algorithm/container.h"
#include "absl/types/span.h"
#include "engine/base/check.h"
#include "server/scheduling/feasibility.h"

namespace sparseserve {

namespace {

std::unique_ptr<RecallSampler> SamplerOf(const Request& request) {
  if (!request.measured.has_value()) return nullptr;
  return std::make_unique<RecallSampler>(
      *request.measured, static_cast<int>(request.prompt.size()),
      request.sampling.seed);
}

// Before any was visited, all are expected to be.
double Density(const AttentionBlocks& blocks) {
  if (blocks.allowed <= 0) return 1;
  return static_cast<double>(blocks.computed) /
         static_cast<double>(blocks.allowed);
}

bool IsDense(const AttentionChoice& choice) {
  return choice.map == nullptr &&
         std::holds_alternative<DensePattern>(choice.pattern);
}

}  // namespace

Sequence::Sequence(SequenceId id, std::unique_ptr<Request> request,
                   const Limits& limits, const Tokenizer& tokenizer)
    : id_(id),
      request_(std::move(request)),
      max_tokens_(limits.max_tokens),
      chunk_rule_(ChunkRuleOf(request_->attention.traits,
                              MostTokens(limits.least_budget))),
      tokenizer_(tokenizer),
      tokens_(request_->prompt),
      text_(tokenizer, request_->stop_strings),
      recall_(SamplerOf(*request_)) {
  SPARSESERVE_CHECK(prompt_tokens() >= 1 && prompt_tokens() < max_tokens_);
  SPARSESERVE_CHECK(request_->max_output_tokens >= 1);
  SPARSESERVE_CHECK(request_->sink != nullptr);
  if (request_->min_output_tokens > 0) {
    banned_ = request_->stop_token_ids;
    if (!request_->ignore_eos) {
      banned_.insert(banned_.end(), tokenizer.end_tokens().begin(),
                     tokenizer.end_tokens().end());
    }
  }
}

Progress Sequence::progress() const {
  if (!started_.has_value()) return Progress::kWaiting;
  return first_token_.has_value() ? Progress::kDecode : Progress::kPrefill;
}

int Sequence::output_left() const {
  return std::min(request_->max_output_tokens, max_tokens_ - prompt_tokens()) -
         output_tokens();
}

int Sequence::least_output_left() const {
  return std::max(0, LeastOutput(*request_) - output_tokens());
}

int Sequence::pages_needed() const {
  const int output = output_left() + output_tokens();
  // The last token is never run, so it needs no place.
  const int positions = prompt_tokens() + output - 1;
  return (positions + kPageTokens - 1) / kPageTokens;
}

int Sequence::pages_for(int tokens) const {
  return (computed_tokens_ + tokens + kPageTokens - 1) / kPageTokens;
}

int Sequence::Start(PageClaim claim, absl::Time now) {
  SPARSESERVE_CHECK(lease().size() == 0 && !ended());
  SPARSESERVE_CHECK(claim.lease().size() >= pages_for(tokens_to_run()));
  SPARSESERVE_CHECK(claim.hit_tokens() < static_cast<int>(tokens_.size()));
  const int hit = claim.hit_tokens();
  // It ran the latest of what it had, and began behind the rest.
  const int again = std::min(own_tokens_, std::max(had_tokens_ - hit, 0));
  claim_ = std::move(claim);
  is_reproducible_ = is_reproducible_ && claim_.is_reproducible();
  own_tokens_ -= again;
  computed_tokens_ = hit;
  expected_hit_ = 0;
  output_at_start_ = output_tokens();
  if (!first_token_.has_value()) {
    const int most = started_.has_value() ? cached_prompt_tokens_ : hit;
    cached_prompt_tokens_ = std::min({most, hit, prompt_tokens()});
  }
  if (!started_.has_value()) started_ = now;
  return again;
}

void Sequence::Preempt() {
  SPARSESERVE_CHECK(may_preempt() && started_.has_value() && !ended());
  claim_ = PageClaim();
  had_tokens_ = std::exchange(computed_tokens_, 0);
  ++preemptions_;
  // Rows that run together choose each for itself, even where a pattern lets
  // steps use one choice.
  if (output_tokens() > 0 && request_->attention.traits.rules_decode &&
      !IsDense(request_->attention.choice)) {
    is_reproducible_ = false;
  }
}

int Sequence::NextTokens(int budget) const {
  const int most = MostTokens(budget);
  if (computed_tokens_ >= prompt_tokens()) {
    // Rows that choose by content choose one by one, as they first did; not
    // every device chooses for several of a sequence at once.
    const PatternTraits& traits = request_->attention.traits;
    const bool choose = traits.rules_decode && !traits.is_time_predictable;
    return std::min(choose ? 1 : most, tokens_to_run());
  }
  return ChunkTokens(chunk_rule_, computed_tokens_, prompt_tokens(), most);
}

int Sequence::LeastTokens() const {
  if (computed_tokens_ >= prompt_tokens()) return 1;
  const int left = prompt_tokens() - computed_tokens_;
  if (chunk_rule_.is_whole) return left;
  const int border = chunk_rule_.border_tokens;
  return std::min(left, border - computed_tokens_ % border);
}

int Sequence::ShortestTokens() const {
  // What measures a prompt wants whole pages.
  if (computed_tokens_ >= prompt_tokens() || request_->profile != nullptr) {
    return LeastTokens();
  }
  return ShortestChunk(chunk_rule_, computed_tokens_, prompt_tokens());
}

int Sequence::tokens_expected() const {
  return static_cast<int>(tokens_.size()) -
         std::max(computed_tokens_, expected_hit_);
}

StepWork Sequence::WorkOf(int tokens) const {
  return WorkBehind(computed_tokens_, tokens);
}

StepWork Sequence::WorkAhead() const {
  return WorkBehind(std::max(computed_tokens_, expected_hit_),
                    tokens_expected());
}

StepWork Sequence::WorkBehind(int begin, int tokens) const {
  const double seen = SeenBlocks(begin, tokens);
  if (begin < prompt_tokens()) {
    return {.prompt_rows = static_cast<double>(tokens),
            .prompt_blocks =
                seen * Density(prefill_blocks_) * tokens / kPageTokens};
  }
  const double blocks = seen * Density(decode_blocks_) * tokens;
  if (is_decoding()) return {.decode_rows = 1, .decode_blocks = blocks};
  return {.prompt_rows = static_cast<double>(tokens), .decode_blocks = blocks};
}

int Sequence::MostTokens(int budget) const {
  const bool is_whole = !request_->attention.traits.is_selection_causal;
  if (request_->profile == nullptr || is_whole) return budget;
  return std::min(budget, kProfiledTokens);
}

StepSlice Sequence::Slice(int tokens) const {
  const absl::Span<const TokenId> all = tokens_;
  StepSlice slice;
  slice.sequence = id_;
  slice.phase = phase();
  slice.tokens = all.subspan(computed_tokens_, tokens);
  slice.first_position = computed_tokens_;
  slice.pages = lease().pages();
  slice.attention = &request_->attention.choice;
  slice.kept_blocks = kept_blocks_.get();
  if (slice.phase == Phase::kPrefill) slice.profile = request_->profile.get();
  slice.wants_token =
      computed_tokens_ + tokens == static_cast<int>(tokens_.size());
  slice.sampling = &request_->sampling;
  slice.prompt = all.first(prompt_tokens());
  slice.output = all.subspan(prompt_tokens());
  if (!may_stop()) slice.banned = banned_;
  // What ran once is measured already.
  if (recall_ != nullptr && computed_tokens_ >= counted_tokens_) {
    recall_->Ask(slice);
  }
  return slice;
}

Sequence::Advanced Sequence::Advance(int tokens, const SliceResult& result,
                                     absl::Time now) {
  Advanced advanced;
  if (!result.status.ok()) {
    End(Ending::kNumericFault, now);
    return advanced;
  }
  if (computed_tokens_ >= counted_tokens_) {
    AttentionBlocks& blocks =
        computed_tokens_ < prompt_tokens() ? prefill_blocks_ : decode_blocks_;
    blocks.computed += result.blocks.computed;
    blocks.allowed += result.blocks.allowed;
    if (recall_ != nullptr) recall_->Take();
  }
  computed_tokens_ += tokens;
  own_tokens_ += tokens;
  counted_tokens_ = std::max(counted_tokens_, computed_tokens_);
  if (computed_tokens_ < prompt_tokens() &&
      computed_tokens_ % chunk_rule_.pattern_border_tokens != 0) {
    is_reproducible_ = false;
  }
  if (computed_tokens_ == static_cast<int>(tokens_.size())) {
    Draw(result, now, advanced);
  }
  return advanced;
}

bool Sequence::may_stop() const {
  return output_tokens() >= request_->min_output_tokens;
}

void Sequence::Draw(const SliceResult& result, absl::Time now,
                    Advanced& advanced) {
  SPARSESERVE_CHECK(result.token >= 0 &&
                    result.token < tokenizer_.vocab_size());
  if (!first_token_.has_value()) first_token_ = now;
  OutputPiece& piece = advanced.piece;
  const bool is_end =
      !request_->ignore_eos &&
      absl::c_linear_search(tokenizer_.end_tokens(), result.token);
  if (may_stop() && (is_end || absl::c_linear_search(request_->stop_token_ids,
                                                     result.token))) {
    piece.text = text_.Flush();
    Finish(is_end ? FinishReason::kStop : FinishReason::kStopSequence, now);
    return;
  }

  if (output_tokens() > 0) advanced.token_gap = now - last_token_;
  tokens_.push_back(result.token);
  last_token_ = now;
  piece.token_ids.push_back(result.token);
  if (request_->sampling.logprobs >= 0) {
    piece.logprobs.push_back({result.chosen, result.alternatives});
  }
  piece.text = text_.Append(result.token, may_stop());
  if (text_.stopped()) {
    Finish(FinishReason::kStopSequence, now);
  } else if (output_tokens() == request_->max_output_tokens ||
             static_cast<int>(tokens_.size()) == max_tokens_) {
    piece.text += text_.Flush();
    Finish(FinishReason::kLength, now);
  }
}

void Sequence::Finish(FinishReason reason, absl::Time now) {
  finish_reason_ = reason;
  End(Ending::kFinished, now);
}

void Sequence::End(Ending ending, absl::Time now) {
  SPARSESERVE_CHECK(!ended() || (*ending_ == Ending::kFinished &&
                                 ending != Ending::kFinished));
  ending_ = ending;
  ended_ = now;
  claim_ = PageClaim();
}

std::optional<absl::Duration> Sequence::TimePerOutputToken() const {
  if (output_tokens() < 2) return std::nullopt;
  return (last_token_ - *first_token_) / (output_tokens() - 1);
}

FinishReport Sequence::Report() const {
  SPARSESERVE_CHECK(ending() == Ending::kFinished);
  FinishReport report;
  report.reason = finish_reason_;
  if (text_.stopped()) {
    report.matched_stop_string = text_.matched_stop_string();
  }
  report.prompt_tokens = prompt_tokens();
  report.cached_prompt_tokens = cached_prompt_tokens_;
  report.output_tokens = output_tokens();
  report.seed = request_->sampling.seed;
  report.queue = *started_ - request_->arrival;
  report.prefill = *first_token_ - *started_;
  report.time_to_first_token = *first_token_ - request_->arrival;
  report.predicted_time_to_first_token = predicted_time_to_first_token_;
  report.time_per_output_token = TimePerOutputToken();
  report.total = ended_ - request_->arrival;
  report.prefill_blocks = prefill_blocks_;
  report.decode_blocks = decode_blocks_;
  report.plan = request_->attention.plan;
  report.heads = request_->attention.ruled_heads;
  report.fallback = request_->attention.fallback;
  if (recall_ != nullptr) report.recall = recall_->estimate();
  report.reproducible = is_reproducible_;
  return report;
}

RequestSample Sequence::Sample() const {
  RequestSample sample;
  sample.operation = request_->operation;
  sample.outcome = OutcomeOf(ending(), finish_reason_);
  sample.prompt_tokens = prompt_tokens();
  sample.output_tokens = output_tokens();
  if (CancelCauseOf(ending()).has_value()) sample.wasted_tokens = own_tokens_;
  sample.queue = started_.value_or(ended_) - request_->arrival;
  sample.time_to_first_token = absl::InfiniteDuration();
  if (first_token_.has_value()) {
    sample.prefill = *first_token_ - *started_;
    sample.time_to_first_token = *first_token_ - request_->arrival;
  }
  if (output_tokens() >= 2) sample.decode = last_token_ - *first_token_;
  sample.time_per_output_token =
      TimePerOutputToken().value_or(absl::InfiniteDuration());
  sample.total = ended_ - request_->arrival;
  sample.prefill_blocks = prefill_blocks_;
  sample.decode_blocks = decode_blocks_;
  sample.fallback = request_->attention.fallback;
  return sample;
}

}  // namespace sparseserve
