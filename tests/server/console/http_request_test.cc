#include "server/console/http_request.h"

#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(HttpRequestTest, ReadsMethodAndPath) {
  const auto request = ParseHttpRequest(
      "GET /metrics?name=a HTTP/1.1\r\nHost: a:9090\r\nX-Empty:\r\n\r\n");
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->method, "GET");
  EXPECT_EQ(request->path, "/metrics");
  EXPECT_FALSE(request->accepts_gzip);
  EXPECT_TRUE(ParseHttpRequest("POST / HTTP/1.0\r\n\r\n").has_value());
}

TEST(HttpRequestTest, KnowsWhoTakesGzip) {
  const auto takes = [](const std::string& value) {
    const auto request = ParseHttpRequest(
        "GET / HTTP/1.1\r\naccept-ENCODING:" + value + "\r\n\r\n");
    return request.has_value() && request->accepts_gzip;
  };
  EXPECT_TRUE(takes("gzip"));
  EXPECT_TRUE(takes(" deflate, GZIP ,br"));
  EXPECT_TRUE(takes("gzip; q=0.01"));
  EXPECT_TRUE(takes("gzip;q=1"));
  EXPECT_FALSE(takes("gzip;q=0"));
  EXPECT_FALSE(takes("gzip;q=0.000, br"));
  EXPECT_FALSE(takes("gzip;"));
  EXPECT_FALSE(takes("xgzip, gzipx"));
  EXPECT_FALSE(takes(""));
}

TEST(HttpRequestTest, RefusesWhatIsNotARequest) {
  const std::string zero(1, '\0');
  for (const std::string& head : {
           std::string(""),
           std::string("\r\n\r\n"),
           std::string("GET / HTTP/1.1\r\n"),
           std::string("GET / HTTP/1.1\n\n"),
           std::string("GET /\r\n\r\n"),
           std::string("GET  / HTTP/1.1\r\n\r\n"),
           std::string("GET / HTTP/1.1 \r\n\r\n"),
           std::string("GET / HTTP/2.0\r\n\r\n"),
           std::string("GET / http/1.1\r\n\r\n"),
           std::string("GET metrics HTTP/1.1\r\n\r\n"),
           std::string("GET http://a/ HTTP/1.1\r\n\r\n"),
           std::string("OPTIONS * HTTP/1.1\r\n\r\n"),
           std::string("G\x01T / HTTP/1.1\r\n\r\n"),
           std::string("GET /\xff HTTP/1.1\r\n\r\n"),
           "GET /" + zero + " HTTP/1.1\r\n\r\n",
           std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
           std::string("GET / HTTP/1.1\r\nHost\r\n\r\n"),
           std::string("GET / HTTP/1.1\r\n: a\r\n\r\n"),
           std::string("GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
           std::string("GET / HTTP/1.1\r\n folded: a\r\n\r\n"),
           std::string("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n"),
           "GET / HTTP/1.1\r\nHost: a" + zero + "\r\n\r\n",
           std::string("\x16\x03\x01\x02\r\n\r\n"),
       }) {
    EXPECT_FALSE(ParseHttpRequest(head).has_value()) << head;
  }
}

}  // namespace
}  // namespace sparseserve
