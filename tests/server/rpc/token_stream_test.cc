#include "server/rpc/token_stream.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/status_details.h"
#include "tests/testing/scrape.h"
#include "tests/testing/signal.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

OutputPiece Piece(const std::string& text) {
  OutputPiece piece;
  piece.text = text;
  piece.token_ids.assign(text.begin(), text.end());
  return piece;
}

FinishReport Report(int output_tokens) {
  FinishReport report;
  report.output_tokens = output_tokens;
  return report;
}

// A call whose writes end when the test says so. Notes what was asked of it.
class RecordingCall : public TokenStream::Call {
 public:
  void StartWrite(OutputPiece piece) override {
    EXPECT_FALSE(writing);
    EXPECT_FALSE(ended());
    writing = true;
    written.push_back(piece.text);
  }
  void EndCall(OutputPiece rest, const TokenStream::End& end) override {
    EXPECT_FALSE(writing);
    EXPECT_FALSE(ended());
    this->rest = std::move(rest);
    this->end = end;
  }
  void Break() override { ++breaks; }
  void StartTimer(absl::Duration delay) override { timers.push_back(delay); }

  bool ended() const { return end.has_value(); }

  bool writing = false;
  std::vector<std::string> written;
  std::vector<absl::Duration> timers;
  OutputPiece rest;
  std::optional<TokenStream::End> end;
  int breaks = 0;
};

class TokenStreamTest : public ::testing::Test {
 protected:
  TokenStreamTest() : metrics_(Metrics::Options{}), queue_({}) {}

  std::shared_ptr<TokenStream> Make(bool deliver = true) {
    options_.deliver = deliver;
    options_.method = "m";
    return std::make_shared<TokenStream>(
        options_,
        TokenStream::Dependencies{queue_, metrics_, [this] { return now_; }},
        call_);
  }
  void FinishWrite(TokenStream& stream, bool ok = true) {
    call_.writing = false;
    stream.WriteDone(ok);
  }
  std::string EndReason() const {
    return call_.end->status.ok() ? "" : ReasonOf(call_.end->status);
  }
  // Cancellations of what was being written, by `cause`, and of all kinds.
  double CancelledWrites(const std::string& cause) const {
    return *testing::SumOfSeries(
        metrics_.Serialize(), "sparseserve_requests_cancelled_total",
        {"stage=\"write\"", "cause=\"" + cause + "\""});
  }
  double Cancellations() const {
    return *testing::SumOfSeries(metrics_.Serialize(),
                                 "sparseserve_requests_cancelled_total", {});
  }
  double BufferedBytes() const {
    const std::string text = metrics_.Serialize();
    const std::string name = "\nsparseserve_stream_buffered_bytes ";
    const size_t at = text.find(name);
    EXPECT_NE(at, std::string::npos);
    return std::stod(text.substr(at + name.size()));
  }

  Metrics metrics_;
  RequestQueue queue_;
  RecordingCall call_;
  TokenStream::Options options_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(TokenStreamTest, WritesTheFirstOutputAtOnce) {
  const auto stream = Make();
  EXPECT_TRUE(stream->Emit(Piece("a")));
  EXPECT_THAT(call_.written, ElementsAre("a"));
}

TEST_F(TokenStreamTest, JoinsOutputThatComesDuringAWrite) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Emit(Piece("b"));
  stream->Emit(Piece("c"));
  EXPECT_THAT(call_.written, ElementsAre("a"));
  FinishWrite(*stream);
  EXPECT_THAT(call_.written, ElementsAre("a", "bc"));
  FinishWrite(*stream);
  EXPECT_THAT(call_.written, ElementsAre("a", "bc"));
  EXPECT_FALSE(call_.ended());
}

TEST_F(TokenStreamTest, JoinsTokensAndLogprobsInOrder) {
  const auto stream = Make(/*deliver=*/false);
  for (TokenId token : {1, 2}) {
    OutputPiece piece;
    piece.token_ids = {token};
    piece.logprobs = {{{token, -1.0f}, {}}};
    stream->Emit(std::move(piece));
  }
  stream->Finish(Report(2));
  EXPECT_THAT(call_.rest.token_ids, ElementsAre(1, 2));
  ASSERT_EQ(call_.rest.logprobs.size(), 2);
  EXPECT_EQ(call_.rest.logprobs[0].chosen.token, 1);
  EXPECT_EQ(call_.rest.logprobs[1].chosen.token, 2);
}

TEST_F(TokenStreamTest, EndsAfterAllOutputWasWritten) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Emit(Piece("b"));
  stream->Finish(Report(2));
  EXPECT_FALSE(call_.ended());
  FinishWrite(*stream);
  EXPECT_FALSE(call_.ended());
  FinishWrite(*stream);
  ASSERT_TRUE(call_.ended());
  EXPECT_THAT(call_.written, ElementsAre("a", "b"));
  EXPECT_TRUE(call_.end->status.ok());
  EXPECT_EQ(call_.end->report->output_tokens, 2);
  EXPECT_EQ(call_.rest.text, "");
}

TEST_F(TokenStreamTest, EndsAtOnceWithoutOutput) {
  const auto stream = Make();
  stream->Finish(Report(0));
  EXPECT_TRUE(call_.ended());
  EXPECT_THAT(call_.written, IsEmpty());
}

TEST_F(TokenStreamTest, KeepsOutputForTheEndIfItDoesNotDeliver) {
  const auto stream = Make(/*deliver=*/false);
  stream->Emit(Piece("a"));
  stream->Emit(Piece("b"));
  EXPECT_THAT(call_.written, IsEmpty());
  stream->Finish(Report(2));
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(call_.rest.text, "ab");
}

TEST_F(TokenStreamTest, AFailureReachesTheCallerWithItsReason) {
  const auto stream = Make();
  stream->Fail({absl::InternalError("nan"), ErrorReason::kNumericFault});
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(call_.end->status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(EndReason(), "NUMERIC_FAULT");
  EXPECT_FALSE(call_.end->report.has_value());
}

TEST_F(TokenStreamTest, AFailureDropsWhatIsNotWrittenYet) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Emit(Piece("b"));
  stream->Fail({absl::UnavailableError("bye"), ErrorReason::kDraining});
  EXPECT_EQ(BufferedBytes(), 0);
  FinishWrite(*stream);
  ASSERT_TRUE(call_.ended());
  EXPECT_THAT(call_.written, ElementsAre("a"));
}

TEST_F(TokenStreamTest, AFullBufferIsASlowReader) {
  options_.max_buffered_messages = 2;
  const auto stream = Make();
  EXPECT_TRUE(stream->Emit(Piece("a")));  // being written
  EXPECT_TRUE(stream->Emit(Piece("b")));
  EXPECT_TRUE(stream->Emit(Piece("c")));
  EXPECT_FALSE(stream->Emit(Piece("d")));
  FinishWrite(*stream);
  EXPECT_TRUE(stream->Emit(Piece("e")));
}

TEST_F(TokenStreamTest, ALongWriteIsASlowReader) {
  options_.slow_consumer_timeout = absl::Seconds(5);
  const auto stream = Make();
  stream->Emit(Piece("a"));
  now_ += absl::Seconds(5);
  EXPECT_TRUE(stream->Emit(Piece("b")));
  now_ += absl::Nanoseconds(1);
  EXPECT_FALSE(stream->Emit(Piece("c")));
}

TEST_F(TokenStreamTest, AWholeAnswerIsNeverSlow) {
  options_.max_buffered_messages = 1;
  const auto stream = Make(/*deliver=*/false);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(stream->Emit(Piece("a")));
}

TEST_F(TokenStreamTest, ACancelledCallEndsAndStopsTheSequence) {
  const auto stream = Make();
  EXPECT_FALSE(stream->cancelled()->load());
  stream->Cancelled();
  EXPECT_TRUE(stream->cancelled()->load());
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(call_.end->status.code(), absl::StatusCode::kCancelled);
}

TEST_F(TokenStreamTest, ACallCancelledPastItsDeadlineExceededIt) {
  options_.deadline = now_ + absl::Seconds(1);
  const auto stream = Make();
  now_ += absl::Seconds(1);
  stream->Cancelled();
  EXPECT_EQ(call_.end->status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(TokenStreamTest, ACancelDuringAWriteStopsTheSequenceBeforeTheWriteEnds) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Cancelled();
  EXPECT_TRUE(stream->cancelled()->load());
  EXPECT_FALSE(call_.ended());
  FinishWrite(*stream, /*ok=*/false);
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(call_.end->status.code(), absl::StatusCode::kCancelled);
}

TEST_F(TokenStreamTest, ACancelDuringAWriteThatSucceedsEndsTheCallToo) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Cancelled();
  FinishWrite(*stream);
  // The loop, which may be in a long step, has not looked yet.
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(call_.end->status.code(), absl::StatusCode::kCancelled);
}

TEST_F(TokenStreamTest, AFailedWriteIsACancelledCall) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  FinishWrite(*stream, /*ok=*/false);
  EXPECT_TRUE(stream->cancelled()->load());
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(call_.end->status.code(), absl::StatusCode::kCancelled);
}

TEST_F(TokenStreamTest, WhatComesAfterACancelIsDropped) {
  const auto stream = Make();
  stream->Cancelled();
  EXPECT_TRUE(stream->Emit(Piece("a")));
  stream->Fail({absl::CancelledError("gone"), ErrorReason::kCancelled});
  stream->Finish(Report(1));
  stream->Cancelled();
  EXPECT_THAT(call_.written, IsEmpty());
  EXPECT_EQ(BufferedBytes(), 0);
}

TEST_F(TokenStreamTest, WhatComesAfterTheCallIsOverIsDropped) {
  auto stream = Make();
  stream->Cancelled();
  stream->Done();
  stream->Emit(Piece("a"));
  stream->ReaderTimedOut();
  stream->Finish(Report(1));
  EXPECT_EQ(call_.breaks, 0);
}

TEST_F(TokenStreamTest, AnAnswerThatWasNotDeliveredCountsAsCancelled) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Finish(Report(1));
  FinishWrite(*stream, /*ok=*/false);
  EXPECT_EQ(stream->Done().end.status.code(), absl::StatusCode::kCancelled);
}

TEST_F(TokenStreamTest, AnErrorUnderWayIsKeptWhenItsReaderLeaves) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Fail({absl::CancelledError("slow"), ErrorReason::kSlowConsumer});
  FinishWrite(*stream, /*ok=*/false);
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(EndReason(), "SLOW_CONSUMER");
}

TEST_F(TokenStreamTest, AReaderThatTakesNothingIsTimedWhenGenerationIsOver) {
  options_.slow_consumer_timeout = absl::Seconds(7);
  const auto stream = Make();
  stream->Emit(Piece("a"));
  EXPECT_THAT(call_.timers, IsEmpty());  // Emit() watches it
  stream->Finish(Report(1));
  EXPECT_THAT(call_.timers, ElementsAre(absl::Seconds(7)));
  stream->ReaderTimedOut();
  EXPECT_EQ(call_.breaks, 1);
  FinishWrite(*stream, /*ok=*/false);
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(EndReason(), "SLOW_CONSUMER");
}

TEST_F(TokenStreamTest, AnAnswerThatItsReaderNeverTakesIsASlowConsumersOnce) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Finish(Report(1));
  EXPECT_EQ(Cancellations(), 0);
  stream->ReaderTimedOut();
  // What breaking the call brings about.
  stream->Cancelled();
  FinishWrite(*stream, /*ok=*/false);
  EXPECT_EQ(CancelledWrites("slow_consumer"), 1);
  EXPECT_EQ(Cancellations(), 1);
}

TEST_F(TokenStreamTest, AnAnswerWhoseReaderLeavesIsACancelledWrite) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Finish(Report(1));
  FinishWrite(*stream, /*ok=*/false);
  EXPECT_EQ(CancelledWrites("client"), 1);
  EXPECT_EQ(Cancellations(), 1);
}

TEST_F(TokenStreamTest, AnAnswerPastItsDeadlineIsACancelledWrite) {
  options_.deadline = now_ + absl::Seconds(1);
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Finish(Report(1));
  now_ += absl::Seconds(1);
  FinishWrite(*stream, /*ok=*/false);
  EXPECT_EQ(CancelledWrites("deadline"), 1);
  EXPECT_EQ(Cancellations(), 1);
}

// The loop counts what it ends itself.
TEST_F(TokenStreamTest, WhatTheLoopEndsIsNotCountedHere) {
  const auto slow = Make();
  slow->Emit(Piece("a"));
  slow->Fail({absl::CancelledError("slow"), ErrorReason::kSlowConsumer});
  slow->ReaderTimedOut();
  FinishWrite(*slow, /*ok=*/false);
  EXPECT_EQ(EndReason(), "SLOW_CONSUMER");
  call_ = RecordingCall();
  const auto left = Make();
  left->Cancelled();
  left->Fail({absl::CancelledError("left"), ErrorReason::kCancelled});
  EXPECT_EQ(Cancellations(), 0);
}

TEST_F(TokenStreamTest, EveryMessageAfterTheEndOfGenerationHasItsOwnTime) {
  const auto stream = Make();
  stream->Emit(Piece("a"));
  stream->Emit(Piece("b"));
  stream->Finish(Report(2));
  FinishWrite(*stream);
  FinishWrite(*stream);
  // "a" under way, "b", the end.
  EXPECT_EQ(call_.timers.size(), 3);
}

TEST_F(TokenStreamTest, ATimeoutOfTheEndItselfBreaksTheCall) {
  const auto stream = Make();
  stream->Finish(Report(0));
  stream->ReaderTimedOut();
  EXPECT_EQ(call_.breaks, 1);
  EXPECT_EQ(ReasonOf(stream->Done().end.status), "SLOW_CONSUMER");
}

TEST_F(TokenStreamTest, ATimeoutBeforeTheEndIsTheEnd) {
  const auto stream = Make();
  stream->ReaderTimedOut();
  stream->Finish(Report(0));
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(EndReason(), "SLOW_CONSUMER");
}

TEST_F(TokenStreamTest, ARefusedRequestEndsTheCall) {
  const auto stream = Make();
  stream->Refuse(QueueFull(3, std::nullopt));
  ASSERT_TRUE(call_.ended());
  EXPECT_EQ(EndReason(), "QUEUE_FULL");
}

TEST_F(TokenStreamTest, BufferedBytesAreWhatWaits) {
  {
    const auto stream = Make();
    stream->Emit(Piece("abcd"));  // 4 bytes of text, 4 ids
    EXPECT_EQ(BufferedBytes(), 0);
    stream->Emit(Piece("abcd"));
    EXPECT_EQ(BufferedBytes(), 20);
    FinishWrite(*stream);
    EXPECT_EQ(BufferedBytes(), 0);
    stream->Emit(Piece("ab"));
    EXPECT_EQ(BufferedBytes(), 10);
  }
  EXPECT_EQ(BufferedBytes(), 0);
}

TEST_F(TokenStreamTest, WaitingForTheReaderIsMeasured) {
  Metrics::Options options;
  options.grpc_methods = {"m"};
  Metrics metrics(options);
  TokenStream stream({.method = "m"},
                     {queue_, metrics, [this] { return now_; }}, call_);
  stream.Emit(Piece("a"));
  now_ += absl::Seconds(1);
  stream.Emit(Piece("b"));
  now_ += absl::Seconds(2);
  FinishWrite(stream);
  EXPECT_THAT(
      metrics.Serialize(),
      HasSubstr("sparseserve_stream_write_blocked_seconds_sum{grpc_method="
                "\"m\"} 2\n"));
}

TEST_F(TokenStreamTest, CountsTheTokensThatCame) {
  const auto stream = Make();
  stream->Emit(Piece("abc"));
  stream->Emit(Piece("de"));
  stream->Cancelled();
  FinishWrite(*stream, false);
  EXPECT_EQ(stream->Done().output_tokens, 5);
}

// A call with threads of its own, as gRPC has them: writes end elsewhere, and
// the call is destroyed by whoever sees the end.
class ThreadedCall : public TokenStream::Call {
 public:
  ThreadedCall(testing::Signal& over, std::atomic<int>& alive)
      : over_(over), alive_(alive) {
    ++alive_;
  }
  ~ThreadedCall() override { --alive_; }

  std::shared_ptr<TokenStream> stream;

  void StartWrite(OutputPiece) override {
    Spawn([this] { stream->WriteDone(!broken_); });
  }
  void EndCall(OutputPiece, const TokenStream::End&) override {
    Spawn([this] {
      stream->Done();
      over_.Set();
    });
  }
  void Break() override { broken_ = true; }
  void StartTimer(absl::Duration) override {}

  void Join() {
    for (size_t i = 0;; ++i) {
      std::thread thread;
      {
        MutexLock lock(mu_);
        if (i >= threads_.size()) return;
        thread = std::move(threads_[i]);
      }
      thread.join();
    }
  }

 private:
  void Spawn(std::function<void()> body) {
    MutexLock lock(mu_);
    threads_.emplace_back(std::move(body));
  }

  testing::Signal& over_;
  std::atomic<int>& alive_;
  std::atomic<bool> broken_{false};
  Mutex mu_;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);
};

// The loop, the caller's cancel, the timer and the writes race; whoever is
// last, the call ends exactly once and nobody touches what is gone.
TEST_F(TokenStreamTest, LoopCallAndCallerMayEndInAnyOrder) {
  std::atomic<int> alive{0};
  for (int round = 0; round < 60; ++round) {
    testing::Signal over;
    auto call = std::make_unique<ThreadedCall>(over, alive);
    auto stream = std::make_shared<TokenStream>(
        TokenStream::Options{.max_buffered_messages = 2},
        TokenStream::Dependencies{queue_, metrics_, absl::Now}, *call);
    call->stream = stream;
    std::thread loop([stream, round] {
      for (int i = 0; i < 5; ++i) {
        if (stream->Emit(Piece("x"))) continue;
        stream->Fail(
            {absl::CancelledError("slow"), ErrorReason::kSlowConsumer});
        return;
      }
      if (round % 2 == 0) stream->Finish(Report(5));
      if (round % 2 == 1)
        stream->Fail({absl::InternalError("x"), ErrorReason::kNumericFault});
    });
    std::thread caller([stream, round] {
      if (round % 3 != 0) stream->Cancelled();
    });
    std::thread timer([stream = std::weak_ptr<TokenStream>(stream), round] {
      const auto held = stream.lock();
      if (round % 5 == 0 && held != nullptr) held->ReaderTimedOut();
    });
    stream.reset();
    over.Wait();
    call->Join();
    call.reset();
    EXPECT_EQ(alive, 0);
    loop.join();
    caller.join();
    timer.join();
  }
  EXPECT_EQ(BufferedBytes(), 0);
}

}  // namespace
}  // namespace sparseserve
