#include "server/console/http_reply.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/console/http_exchange.h"

namespace sparseserve {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(HttpReplyTest, SaysWhatBrowsersMayDoWithIt) {
  HttpReply reply;
  reply.body = "body";
  const std::string text = Serialize(reply, false);
  EXPECT_THAT(text, StartsWith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; "
                               "charset=utf-8\r\nContent-Length: 4\r\n"));
  for (const char* header :
       {"Content-Security-Policy: default-src 'none'",
        "X-Content-Type-Options: nosniff", "X-Frame-Options: DENY",
        "Referrer-Policy: no-referrer", "Cache-Control: no-store",
        "Connection: close"}) {
    EXPECT_THAT(text, HasSubstr(std::string(header) + "\r\n"));
  }
  EXPECT_THAT(text, Not(HasSubstr("Allow")));
  EXPECT_THAT(text, EndsWith("\r\n\r\nbody"));
}

TEST(HttpReplyTest, PacksWhatIsWorthIt) {
  HttpReply reply;
  reply.body = std::string(100'000, 'x');
  const std::string text = Serialize(reply, true);
  EXPECT_THAT(text, HasSubstr("\r\nContent-Encoding: gzip\r\n"));
  EXPECT_LT(text.size(), 2000u);
  EXPECT_EQ(testing::Gunzip(testing::BodyOf(text)), reply.body);
  reply.body = "short";
  EXPECT_THAT(Serialize(reply, true), EndsWith("\r\n\r\nshort"));
}

TEST(HttpReplyTest, ErrorsSayTheirStatus) {
  HttpReply reply = StatusReply(405);
  reply.allow = "GET";
  const std::string text = Serialize(reply, true);
  EXPECT_THAT(text, StartsWith("HTTP/1.1 405 Method Not Allowed\r\n"));
  EXPECT_THAT(text, HasSubstr("\r\nAllow: GET\r\n"));
  EXPECT_THAT(text, EndsWith("\r\n\r\n405 Method Not Allowed\n"));
}

}  // namespace
}  // namespace sparseserve
