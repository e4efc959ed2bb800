#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace sparseserve {

// The head of a request, as far as the console looks at it.
struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  bool accepts_gzip = false;
};

// `head` is a request line and header lines, with the empty line that ends
// them. Nothing if it is not one of HTTP/1.0 or 1.1 by RFC 9112, or if the
// target is not a path.
std::optional<HttpRequest> ParseHttpRequest(absl::string_view head);

}  // namespace sparseserve
