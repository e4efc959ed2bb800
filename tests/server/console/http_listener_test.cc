#include "server/console/http_listener.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/console/http_exchange.h"

namespace sparseserve {
namespace {

using testing::BodyOf;
using testing::Exchange;
using testing::Get;
using ::testing::HasSubstr;
using testing::HttpConnection;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr char kGet[] = "GET / HTTP/1.1\r\n\r\n";

// A listener whose clock stands unless it is moved on, so that nothing times
// out that is not meant to.
class HttpListenerTest : public ::testing::Test {
 protected:
  std::unique_ptr<HttpListener> Listen(HttpListener::Options options = {}) {
    options.address = "127.0.0.1:0";
    // How soon it sees that the clock was moved.
    options.tick_every = absl::Milliseconds(20);
    auto listener = HttpListener::Start(
        options, {.now =
                      [this] {
                        return absl::UnixEpoch() +
                               absl::Seconds(seconds_.load());
                      },
                  .get =
                      [this](const std::string& path) {
                        HttpReply reply = StatusReply(path == "/" ? 200 : 404);
                        if (path == "/large")
                          reply.body = std::string(kLarge, 'x');
                        ++answered_;
                        return reply;
                      },
                  .tick = [this] { ++ticks_; }});
    EXPECT_TRUE(listener.ok()) << listener.status();
    return *std::move(listener);
  }

  static constexpr size_t kLarge = 32 << 20;  // more than sockets hold
  std::atomic<int> seconds_ = 0, answered_ = 0, ticks_ = 0;
};

TEST_F(HttpListenerTest, AnswersGet) {
  const auto listener = Listen();
  ASSERT_GT(listener->port(), 0);
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(Get(listener->port(), "/x"), StartsWith("HTTP/1.1 404 "));
  EXPECT_EQ(answered_, 2);
}

TEST_F(HttpListenerTest, AnswersNothingButGet) {
  const auto listener = Listen();
  for (const char* method :
       {"POST", "PUT", "DELETE", "HEAD", "OPTIONS", "get", "TRACE", "GETS"}) {
    const std::string reply = Exchange(
        listener->port(),
        absl::StrCat(method, " / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"));
    EXPECT_THAT(reply, StartsWith("HTTP/1.1 405 ")) << method;
    EXPECT_THAT(reply, HasSubstr("\r\nAllow: GET\r\n"));
  }
  EXPECT_EQ(answered_, 0);
}

TEST_F(HttpListenerTest, RefusesWhatIsNotARequest) {
  const auto listener = Listen();
  EXPECT_THAT(Exchange(listener->port(), "hello\r\n\r\n"),
              StartsWith("HTTP/1.1 400 "));
  EXPECT_EQ(answered_, 0);
}

TEST_F(HttpListenerTest, RefusesLongHeads) {
  const auto listener = Listen({.max_request_bytes = 1000});
  const auto request = [](size_t bytes) {
    const std::string begin = "GET / HTTP/1.1\r\nX: ", end = "\r\n\r\n";
    return begin + std::string(bytes - begin.size() - end.size(), 'x') + end;
  };
  EXPECT_THAT(Exchange(listener->port(), request(1000)),
              StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Exchange(listener->port(), request(1001)),
              StartsWith("HTTP/1.1 431 "));
  // One that never ends.
  EXPECT_THAT(Exchange(listener->port(), std::string(100'000, 'x')),
              StartsWith("HTTP/1.1 431 "));
  EXPECT_EQ(answered_, 1);
}

TEST_F(HttpListenerTest, TakesARequestInPieces) {
  const auto listener = Listen();
  HttpConnection connection(listener->port());
  for (const char c : std::string(kGet)) {
    ASSERT_TRUE(connection.Send(std::string(1, c)));
    // Another request is answered meanwhile.
    if (c != 'P') continue;
    EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  }
  EXPECT_THAT(connection.Receive(), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpListenerTest, SendsMoreThanSocketsHold) {
  const auto listener = Listen();
  HttpConnection slow(listener->port());
  ASSERT_TRUE(slow.Send("GET /large HTTP/1.1\r\n\r\n"));
  // Who does not read holds up nobody.
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(BodyOf(slow.Receive()).size(), kLarge);
}

TEST_F(HttpListenerTest, ClosesWhoIsTooSlow) {
  const auto listener = Listen();
  HttpConnection silent(listener->port()), dribbling(listener->port());
  ASSERT_TRUE(dribbling.Send("GET / HT"));
  // Until they are taken, the clock must stand.
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  seconds_ += 4;
  ASSERT_TRUE(dribbling.Send("TP/1"));
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  seconds_ += 1;
  EXPECT_THAT(silent.Receive(), IsEmpty());
  EXPECT_THAT(dribbling.Receive(), IsEmpty());
}

TEST_F(HttpListenerTest, ClosesWhoDoesNotTakeItsAnswer) {
  const auto listener = Listen();
  HttpConnection slow(listener->port());
  ASSERT_TRUE(slow.Send("GET /large HTTP/1.1\r\n\r\n"));
  while (answered_ == 0) std::this_thread::yield();
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  seconds_ += 10;
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  EXPECT_LT(slow.Receive().size(), kLarge);
}

TEST_F(HttpListenerTest, IdleConnectionsGiveWay) {
  const auto listener = Listen({.max_connections = 8});
  std::vector<std::unique_ptr<HttpConnection>> idle;
  for (int i = 0; i < 100; ++i) {
    idle.push_back(std::make_unique<HttpConnection>(listener->port()));
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  }
  // The first came first.
  EXPECT_THAT(idle.front()->Receive(), IsEmpty());
}

TEST_F(HttpListenerTest, ManyAtOnceAreAnswered) {
  const auto listener = Listen();
  std::vector<std::unique_ptr<HttpConnection>> connections;
  for (int i = 0; i < 50; ++i) {
    connections.push_back(std::make_unique<HttpConnection>(listener->port()));
    ASSERT_TRUE(connections.back()->Send(kGet));
  }
  for (const auto& connection : connections) {
    EXPECT_THAT(connection->Receive(), StartsWith("HTTP/1.1 200 "));
  }
}

TEST_F(HttpListenerTest, EndsWithConnectionsOpen) {
  auto listener = Listen();
  HttpConnection silent(listener->port());
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  listener.reset();
  EXPECT_THAT(silent.Receive(), IsEmpty());
}

TEST_F(HttpListenerTest, TicksFromTheStartAndWithTheClock) {
  const auto listener = Listen();
  EXPECT_THAT(Get(listener->port(), "/"), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(ticks_, 1);
  ++seconds_;
  while (ticks_ < 2) std::this_thread::yield();
}

TEST_F(HttpListenerTest, AnAddressInUseIsUnavailable) {
  const auto first = Listen();
  const std::string address = absl::StrCat("127.0.0.1:", first->port());
  const auto second = HttpListener::Start({.address = address}, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address));
}

TEST_F(HttpListenerTest, RefusesWhatIsNotOneAddress) {
  for (const char* address :
       {"", "9090x", "localhost", "localhost:", ":-1", ":+1", "localhost:65536",
        "localhost:99999999999", "127.0.0.1:443s", "::1:80", "[::1:80",
        "127.0.0.1:0,127.0.0.1:0"}) {
    const auto listener = HttpListener::Start({.address = address}, {});
    EXPECT_EQ(listener.status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace sparseserve
