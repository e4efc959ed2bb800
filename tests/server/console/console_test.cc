#include "server/console/console.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/server/console/http_exchange.h"

namespace sparseserve {
namespace {

using testing::BodyOf;
using testing::Exchange;
using testing::Get;
using testing::Gunzip;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ConsoleTest : public ::testing::Test {
 protected:
  ConsoleTest() : metrics_(ModelOptions()) {
    auto console =
        Console::Start({"127.0.0.1:0", absl::Now, absl::Now}, metrics_);
    EXPECT_TRUE(console.ok()) << console.status();
    console_ = *std::move(console);
  }

  static Metrics::Options ModelOptions() {
    Metrics::Options options;
    options.model_name = "models/small";
    options.page_tokens = 64;
    return options;
  }

  int port() const { return console_->port(); }

  Metrics metrics_;
  std::unique_ptr<Console> console_;
};

// Without the lines of what changes by itself.
std::vector<std::string> OwnLines(const std::string& exposition) {
  std::vector<std::string> lines;
  for (absl::string_view line : absl::StrSplit(exposition, '\n')) {
    if (!absl::StartsWith(line, "process_")) lines.emplace_back(line);
  }
  return lines;
}

TEST_F(ConsoleTest, ServesScrapes) {
  metrics_.SetRunning(3);
  const std::string reply = Get(port(), "/metrics");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200 OK\r\n"));
  // What scrapers of the text format go by.
  EXPECT_THAT(reply,
              HasSubstr("\r\nContent-Type: text/plain; charset=utf-8\r\n"));
  EXPECT_EQ(OwnLines(BodyOf(reply)), OwnLines(metrics_.Serialize()));
  EXPECT_THAT(reply, HasSubstr("\nsparseserve_requests_running 3\n"));
}

TEST_F(ConsoleTest, PacksScrapes) {
  const std::string reply = Exchange(
      port(),
      "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
  EXPECT_THAT(reply, HasSubstr("\r\nContent-Encoding: gzip\r\n"));
  EXPECT_EQ(OwnLines(Gunzip(BodyOf(reply))), OwnLines(metrics_.Serialize()));
}

TEST_F(ConsoleTest, AnswersManyScrapersAtOnce) {
  std::vector<std::thread> scrapers;
  for (int i = 0; i < 8; ++i) {
    scrapers.emplace_back([this] {
      for (int k = 0; k < 5; ++k) {
        EXPECT_THAT(Get(port(), "/metrics"),
                    HasSubstr("sparseserve_requests_running 0\n"));
      }
    });
  }
  for (std::thread& scraper : scrapers) scraper.join();
}

TEST_F(ConsoleTest, JsonTellsWhatTheMetricsSay) {
  metrics_.SetRunning(3);
  metrics_.SetPages(5, 4, 3);
  metrics_.Rejected(RejectReason::kQueueFull);
  const std::string reply = Get(port(), "/console.json");
  EXPECT_THAT(reply, HasSubstr("\r\nContent-Type: application/json\r\n"));
  const auto report = nlohmann::json::parse(BodyOf(reply));
  EXPECT_EQ(report["model"]["model_name"], "models/small");
  EXPECT_EQ(report["now"]["running"], 3);
  EXPECT_EQ(report["now"]["kv_pages"]["cached"], 3);
  EXPECT_EQ(report["all"]["rejected"]["queue_full"], 1);
  EXPECT_EQ(report["history"]["running"].size(), 1u);
}

TEST_F(ConsoleTest, PageRunsItsOwnScriptOnly) {
  const std::string reply = Get(port(), "/");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(reply,
              HasSubstr("\r\nContent-Type: text/html; charset=utf-8\r\n"));
  const std::string begin = "script-src 'nonce-";
  const size_t at = reply.find(begin);
  ASSERT_NE(at, reply.npos);
  const std::string nonce = reply.substr(at + begin.size(), 32);
  EXPECT_EQ(nonce.find_first_not_of("0123456789abcdef"), nonce.npos);
  EXPECT_THAT(reply, HasSubstr("<script nonce=\"" + nonce + "\">"));
  // Nobody can know the next one.
  EXPECT_THAT(Get(port(), "/?again"), Not(HasSubstr(nonce)));
}

TEST_F(ConsoleTest, HasNoOtherPaths) {
  for (const char* path :
       {"/metrics/", "//metrics", "/console", "/index.html", "/favicon.ico",
        "/../metrics", "/%2e%2e/etc/passwd", "/console.json/"}) {
    const std::string reply = Get(port(), path);
    EXPECT_THAT(reply, StartsWith("HTTP/1.1 404 Not Found\r\n")) << path;
    EXPECT_EQ(BodyOf(reply), "404 Not Found\n");
  }
}

TEST_F(ConsoleTest, AnAddressInUseIsUnavailable) {
  const auto second = Console::Start(
      {absl::StrCat("127.0.0.1:", port()), absl::Now, absl::Now}, metrics_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace sparseserve
