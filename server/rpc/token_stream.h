#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/ending.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/token_sink.h"

namespace sparseserve {

// One request's output on its way from the serving thread to a caller whom the
// serving thread must never wait for. While a message is being written, further
// output joins the next one. Shared by the request and the call, in whichever
// order they end; thread-safe.
//
// The call ends once: with the loop's Finish or Fail, or, if the caller left
// first, with Cancelled. Whatever comes after is dropped. An answer that was
// generated to its end and then not taken is counted here as cancelled while it
// was written: the loop has done its counting by then.
class TokenStream : public TokenSink {
 public:
  // How the call ended. `report` iff `status` is OK.
  struct End {
    absl::Status status;
    std::optional<FinishReport> report;
  };

  // What is known of a call that is over.
  struct Summary {
    End end;
    std::optional<int> prompt_tokens;  // if the prompt was encoded
    int output_tokens = 0;             // that came for the call
  };

  // The call. Methods are called one at a time, with the stream locked: they
  // start things and return. Must live until Done().
  class Call {
   public:
    virtual ~Call() = default;
    // Starts a write; WriteDone() answers. Never while one is under way.
    virtual void StartWrite(OutputPiece piece) = 0;
    // Sends the end, once; `rest` is output not yet written, which only a
    // stream that does not deliver has. Done() answers.
    virtual void EndCall(OutputPiece rest, const End& end) = 0;
    // Breaks off the call: whatever is under way fails.
    virtual void Break() = 0;
    // Calls ReaderTimedOut() after `delay`, in place of an earlier timer.
    virtual void StartTimer(absl::Duration delay) = 0;
  };

  struct Options {
    bool deliver = true;  // false keeps all output for EndCall()
    int max_buffered_messages = 1024;
    absl::Duration slow_consumer_timeout = absl::Seconds(30);
    std::string method;                            // for the metrics
    absl::Time deadline = absl::InfiniteFuture();  // the caller's own
  };
  struct Dependencies {  // all outlive the stream
    RequestQueue& queue;
    Metrics& metrics;
    std::function<absl::Time()> clock;
  };

  TokenStream(Options options, const Dependencies& dependencies, Call& call);
  ~TokenStream() override;

  // The serving thread.
  bool Emit(OutputPiece piece) override;
  void Finish(const FinishReport& report) override;
  void Fail(const Failure& failure) override;

  // The tokenizer's thread. The call may be over.
  void SetPromptTokens(int tokens);
  // The call's threads and the tokenizer's. The request never reached the loop.
  void Refuse(const absl::Status& status);
  void WriteDone(bool ok);
  // The caller left, or its deadline passed.
  void Cancelled();
  void ReaderTimedOut();
  // The call is over: nothing of it is used from now on.
  Summary Done();

  // Goes into the request, as its flag.
  std::shared_ptr<std::atomic<bool>> cancelled() const { return cancelled_; }

 private:
  void EndWith(End end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Writes or ends, whatever is next; nothing while a write is under way.
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  OutputPiece TakePending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StopSequence();
  void LeaveByCaller() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Puts `ending` in the place of a good end or of none.
  void FailBy(Ending ending) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const Dependencies d_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ =
      std::make_shared<std::atomic<bool>>(false);

  mutable Mutex mu_;
  Call* call_ ABSL_GUARDED_BY(mu_);          // null once done
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // EndCall() was called
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time write_started_ ABSL_GUARDED_BY(mu_);
  OutputPiece pending_ ABSL_GUARDED_BY(mu_);
  int pending_messages_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t pending_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Time pending_since_ ABSL_GUARDED_BY(mu_);
  std::optional<End> end_ ABSL_GUARDED_BY(mu_);
  std::optional<int> prompt_tokens_ ABSL_GUARDED_BY(mu_);
  int output_tokens_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace sparseserve
