#pragma once

#include <string>

namespace sparseserve {

struct HttpReply {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  // What a page may load and run; by default nothing.
  std::string content_security_policy = "default-src 'none'";
  std::string allow;  // methods, where the status is 405
  std::string body;
};

// A short text that says no more than the status.
HttpReply StatusReply(int status);

// Head and body as they are sent, on a connection that is closed after them.
// With `gzip`, bodies that are worth it are compressed.
std::string Serialize(const HttpReply& reply, bool gzip);

}  // namespace sparseserve
