#include "server/rpc/token_stream.h"

#include <iterator>
#include <utility>

#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

// A client's own timer can run a little ahead of the deadline that the server
// computed: what it then sends is a cancellation, but what it means is this.
constexpr absl::Duration kDeadlineSlack = absl::Milliseconds(20);

int64_t BytesOf(const OutputPiece& piece) {
  size_t bytes = piece.text.size() + piece.token_ids.size() * sizeof(TokenId);
  for (const OutputPiece::Logprobs& logprobs : piece.logprobs) {
    bytes += (1 + logprobs.alternatives.size()) * sizeof(TokenLogprob);
  }
  return static_cast<int64_t>(bytes);
}

void Append(OutputPiece from, OutputPiece& to) {
  to.text += from.text;
  to.token_ids.insert(to.token_ids.end(), from.token_ids.begin(),
                      from.token_ids.end());
  to.logprobs.insert(to.logprobs.end(),
                     std::make_move_iterator(from.logprobs.begin()),
                     std::make_move_iterator(from.logprobs.end()));
}

TokenStream::End FailedEnd(Ending ending) {
  return {ToStatus(FailureOf(ending, Progress::kDecode)), std::nullopt};
}

}  // namespace

TokenStream::TokenStream(Options options, const Dependencies& dependencies,
                         Call& call)
    : options_(std::move(options)), d_(dependencies), call_(&call) {}

TokenStream::~TokenStream() { d_.metrics.AddBufferedBytes(-pending_bytes_); }

bool TokenStream::Emit(OutputPiece piece) {
  MutexLock lock(mu_);
  const absl::Time now = d_.clock();
  // The flag that the loop reads is set already.
  if (ended_) return true;
  if (writing_ && (pending_messages_ >= options_.max_buffered_messages ||
                   now - write_started_ > options_.slow_consumer_timeout)) {
    return false;
  }
  output_tokens_ += static_cast<int>(piece.token_ids.size());
  const int64_t bytes = BytesOf(piece);
  if (pending_messages_ == 0) pending_since_ = now;
  ++pending_messages_;
  pending_bytes_ += bytes;
  d_.metrics.AddBufferedBytes(bytes);
  Append(std::move(piece), pending_);
  Proceed();
  return true;
}

void TokenStream::Finish(const FinishReport& report) {
  MutexLock lock(mu_);
  EndWith({absl::OkStatus(), report});
}

void TokenStream::Fail(const Failure& failure) { Refuse(ToStatus(failure)); }

void TokenStream::SetPromptTokens(int tokens) {
  MutexLock lock(mu_);
  prompt_tokens_ = tokens;
}

void TokenStream::Refuse(const absl::Status& status) {
  MutexLock lock(mu_);
  // What an error cuts short is of no use, least of all to a slow reader.
  TakePending();
  EndWith({status, std::nullopt});
}

void TokenStream::WriteDone(bool ok) {
  MutexLock lock(mu_);
  writing_ = false;
  // What was handed over before the caller left still counts as written.
  if (!ok || cancelled_->load()) {
    LeaveByCaller();
    return;
  }
  if (pending_messages_ > 0) {
    d_.metrics.StreamBlocked(options_.method, d_.clock() - pending_since_);
  }
  Proceed();
}

void TokenStream::Cancelled() {
  StopSequence();
  MutexLock lock(mu_);
  // A write under way ends now, and WriteDone() goes on from there.
  if (!writing_) LeaveByCaller();
}

void TokenStream::ReaderTimedOut() {
  MutexLock lock(mu_);
  if (call_ == nullptr) return;
  FailBy(Ending::kSlowConsumer);
  call_->Break();
  Proceed();
}

TokenStream::Summary TokenStream::Done() {
  MutexLock lock(mu_);
  call_ = nullptr;
  return {*end_, prompt_tokens_, output_tokens_};
}

void TokenStream::EndWith(End end) {
  if (end_.has_value()) return;
  end_ = std::move(end);
  // From here on the loop no longer watches whether the reader takes anything.
  if (writing_) call_->StartTimer(options_.slow_consumer_timeout);
  Proceed();
}

void TokenStream::Proceed() {
  if (writing_ || ended_) return;
  if (end_.has_value()) call_->StartTimer(options_.slow_consumer_timeout);
  if (options_.deliver && pending_messages_ > 0) {
    writing_ = true;
    write_started_ = d_.clock();
    call_->StartWrite(TakePending());
  } else if (end_.has_value()) {
    ended_ = true;
    call_->EndCall(TakePending(), *end_);
  }
}

OutputPiece TokenStream::TakePending() {
  d_.metrics.AddBufferedBytes(-pending_bytes_);
  pending_bytes_ = 0;
  pending_messages_ = 0;
  return std::exchange(pending_, OutputPiece());
}

void TokenStream::StopSequence() {
  cancelled_->store(true);
  d_.queue.Wake();
}

void TokenStream::LeaveByCaller() {
  if (ended_) return;
  StopSequence();
  TakePending();
  FailBy(d_.clock() + kDeadlineSlack >= options_.deadline ? Ending::kDeadline
                                                          : Ending::kCancelled);
  Proceed();
}

void TokenStream::FailBy(Ending ending) {
  // An error that is on its way already says more.
  if (end_.has_value() && !end_->status.ok()) return;
  if (end_.has_value()) {
    d_.metrics.Cancelled(CancelStage::kWrite, *CancelCauseOf(ending));
  }
  end_ = FailedEnd(ending);
}

}  // namespace sparseserve
