#include "server/rpc/request_log.h"

#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A pipe; the log writes into one end.
class RequestLogTest : public ::testing::Test {
 protected:
  RequestLogTest() { EXPECT_EQ(pipe(ends_), 0); }
  ~RequestLogTest() override { close(ends_[0]); }

  int input() const { return ends_[1]; }
  std::string ReadAll() {
    close(ends_[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(ends_[0], buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, n);
    }
    return text;
  }

 private:
  int ends_[2];
};

TEST_F(RequestLogTest, WritesAGenerationAsOneLineOfJson) {
  RequestLog log(input());
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
                                  .density = 0.5};
  log.Write(entry);
  EXPECT_EQ(ReadAll(),
            R"({"time":"1970-01-01T00:00:01.234Z","severity":"INFO",)"
            R"("event":"call","method":"pkg.Service/Method",)"
            R"("request_id":"id-1",)"
            R"("trace_id":"4bf92f3577b34da6a3ce929d0e0e4736",)"
            R"("traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-)"
            R"(00f067aa0ba902b7-01",)"
            R"("model":"models/a","code":"UNAVAILABLE","reason":"DRAINING",)"
            R"("prompt_tokens":7,"output_tokens":3,"queue_ms":1.0,)"
            R"("time_to_first_token_ms":2.0,"plan":"dense","density":0.5,)"
            R"("total_ms":1.5})"
            "\n");
}

TEST_F(RequestLogTest, LeavesOutWhatIsNotKnown) {
  RequestLog log(input());
  log.Write({.method = "m", .code = "OK"});
  const std::string line = ReadAll();
  for (const char* key : {"trace", "reason", "plan", "output_tokens"}) {
    EXPECT_THAT(line, Not(HasSubstr(key)));
  }
}

TEST_F(RequestLogTest, ACallersIdCannotForgeALine) {
  RequestLog log(input());
  log.Write({.request_id = "a\"}\n{\"code\":\"OK", .code = "NOT_FOUND"});
  const std::string text = ReadAll();
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  EXPECT_THAT(text, HasSubstr(R"("request_id":"a\"}\n{\"code\":\"OK")"));
}

TEST_F(RequestLogTest, LinesOfManyThreadsDoNotMix) {
  RequestLog log(input());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log] {
      for (int i = 0; i < 20; ++i) log.Write({.method = "m", .code = "OK"});
    });
  }
  for (std::thread& thread : threads) thread.join();
  int lines = 0;
  for (const auto line : absl::StrSplit(ReadAll(), '\n', absl::SkipEmpty())) {
    ++lines;
    EXPECT_EQ(line.front(), '{');
    EXPECT_EQ(line.back(), '}');
  }
  EXPECT_EQ(lines, 80);
}

}  // namespace
}  // namespace sparseserve
