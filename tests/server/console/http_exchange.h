#pragma once

#include <string>

namespace sparseserve::testing {

// A connection to a port of this machine. One thread.
class HttpConnection {
 public:
  explicit HttpConnection(int port);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // False if the other side took less.
  bool Send(const std::string& bytes);
  // Everything until the other side ends, which must be within a minute.
  std::string Receive();

 private:
  int fd_ = -1;
};

// The whole reply to `request`, as it came.
std::string Exchange(int port, const std::string& request);

// The reply to GET of `path`.
std::string Get(int port, const std::string& path);

// What follows the head of a reply.
std::string BodyOf(const std::string& reply);

// What a gzip file holds; fails the test if it is none.
std::string Gunzip(const std::string& packed);

}  // namespace sparseserve::testing
