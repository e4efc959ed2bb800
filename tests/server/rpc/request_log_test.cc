#include "server/rpc/request_log.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/scrape.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A pipe; the log writes into one end.
class RequestLogTest : public ::testing::Test {
 protected:
  RequestLogTest() { EXPECT_EQ(pipe(ends_), 0); }
  ~RequestLogTest() override {
    CloseInput();
    CloseOutput();
  }

  std::unique_ptr<RequestLog> MakeLog(size_t max_bytes = 1 << 20) {
    return std::make_unique<RequestLog>(ends_[1], metrics_, max_bytes);
  }
  // What `log` has written until its end.
  std::string ReadAll(std::unique_ptr<RequestLog> log) {
    log.reset();
    CloseInput();
    return ReadToEnd();
  }
  std::string ReadToEnd() const {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(ends_[0], buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, n);
    }
    return text;
  }
  void CloseInput() { Close(ends_[1]); }
  void CloseOutput() { Close(ends_[0]); }
  // Writes until the pipe takes no more.
  void FillPipe() {
    fcntl(ends_[1], F_SETFL, O_NONBLOCK);
    const std::string filler(4096, '#');
    while (write(ends_[1], filler.data(), filler.size()) > 0) {
    }
    fcntl(ends_[1], F_SETFL, 0);
  }
  double Dropped() const {
    return *testing::SumOfSeries(metrics_.Serialize(),
                                 "sparseserve_log_lines_dropped_total", {});
  }

  Metrics metrics_{Metrics::Options{}};

 private:
  static void Close(int& end) {
    if (end >= 0) close(end);
    end = -1;
  }

  int ends_[2];
};

TEST_F(RequestLogTest, WritesAGenerationAsOneLineOfJson) {
  auto log = MakeLog();
  RequestLogEntry entry;
  entry.time = absl::FromUnixMillis(1'234);
  entry.method = "pkg.Service/Method";
  entry.request_id = "id-1";
  entry.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  entry.model = "models/a";
  entry.code = "UNAVAILABLE";
  entry.reason = "DRAINING";
  entry.total = absl::Microseconds(1500);
  entry.generation =
      RequestLogEntry::Generation{.prompt_tokens = 7,
                                  .output_tokens = 3,
                                  .queue = absl::Milliseconds(1),
                                  .time_to_first_token = absl::Milliseconds(2),
                                  .plan = "fast",
                                  .pattern = "xattention",
                                  .density = 0.5};
  log->Write(entry);
  EXPECT_EQ(ReadAll(std::move(log)),
            R"({"time":"1970-01-01T00:00:01.234Z","severity":"INFO",)"
            R"("event":"call","method":"pkg.Service/Method",)"
            R"("request_id":"id-1",)"
            R"("trace_id":"4bf92f3577b34da6a3ce929d0e0e4736",)"
            R"("traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-)"
            R"(00f067aa0ba902b7-01",)"
            R"("model":"models/a","code":"UNAVAILABLE","reason":"DRAINING",)"
            R"("prompt_tokens":7,"output_tokens":3,"queue_ms":1.0,)"
            R"("time_to_first_token_ms":2.0,"plan":"fast",)"
            R"("pattern":"xattention","density":0.5,)"
            R"("total_ms":1.5})"
            "\n");
}

TEST_F(RequestLogTest, LeavesOutWhatIsNotKnown) {
  auto log = MakeLog();
  log->Write({.method = "m", .code = "OK"});
  const std::string line = ReadAll(std::move(log));
  for (const char* key :
       {"trace", "reason", "plan", "pattern", "output_tokens"}) {
    EXPECT_THAT(line, Not(HasSubstr(key)));
  }
}

TEST_F(RequestLogTest, ACallersIdCannotForgeALine) {
  auto log = MakeLog();
  log->Write({.request_id = "a\"}\n{\"code\":\"OK", .code = "NOT_FOUND"});
  const std::string text = ReadAll(std::move(log));
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  EXPECT_THAT(text, HasSubstr(R"("request_id":"a\"}\n{\"code\":\"OK")"));
}

TEST_F(RequestLogTest, LinesOfManyThreadsDoNotMix) {
  auto log = MakeLog();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log] {
      for (int i = 0; i < 20; ++i) log->Write({.method = "m", .code = "OK"});
    });
  }
  for (std::thread& thread : threads) thread.join();
  int lines = 0;
  for (const auto line :
       absl::StrSplit(ReadAll(std::move(log)), '\n', absl::SkipEmpty())) {
    ++lines;
    EXPECT_EQ(line.front(), '{');
    EXPECT_EQ(line.back(), '}');
  }
  EXPECT_EQ(lines, 80);
}

TEST_F(RequestLogTest, AReaderThatStandsStillHoldsUpNobody) {
  FillPipe();
  auto log = MakeLog(/*max_bytes=*/2000);
  for (int i = 0; i < 1000; ++i) {
    log->Write({.method = "m", .code = "OK"});
  }
  EXPECT_GT(Dropped(), 900);
  // Nor does it hold up the end; what waits then is lost, and counted.
  log.reset();
  EXPECT_EQ(Dropped(), 1000);
}

TEST_F(RequestLogTest, WhatWaitedIsWrittenWhenTheReaderGoesOn) {
  FillPipe();
  auto log = MakeLog(/*max_bytes=*/2000);
  for (int i = 0; i < 1000; ++i) {
    log->Write({.method = "m", .code = "OK"});
  }
  std::string text;
  std::thread reader([&] { text = ReadToEnd(); });
  log->Flush(absl::Minutes(1));
  log.reset();
  CloseInput();
  reader.join();
  const int lines = std::count(text.begin(), text.end(), '\n');
  EXPECT_GT(lines, 5);
  EXPECT_EQ(lines + Dropped(), 1000);
}

TEST_F(RequestLogTest, AReaderThatIsGoneCostsItsLines) {
  signal(SIGPIPE, SIG_IGN);
  CloseOutput();
  auto log = MakeLog();
  log->Write({.method = "m", .code = "OK"});
  log.reset();
  EXPECT_EQ(Dropped(), 1);
}

}  // namespace
}  // namespace sparseserve
