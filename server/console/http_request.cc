#include "server/console/http_request.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace sparseserve {
namespace {

// RFC 9110, 5.6.2.
bool IsToken(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(c) ||
           absl::StrContains("!#$%&'*+-.^_`|~", absl::string_view(&c, 1));
  });
}

bool IsPath(absl::string_view text) {
  return absl::StartsWith(text, "/") &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return c > ' ' && c <= '~'; });
}

bool ParseRequestLine(absl::string_view line, HttpRequest& request) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  if (words.size() != 3 || !IsToken(words[0]) || !IsPath(words[1]) ||
      (words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0")) {
    return false;
  }
  request.method = std::string(words[0]);
  request.path = std::string(words[1].substr(0, words[1].find('?')));
  return true;
}

// Of "br, gzip;q=0.5"; gzip with a weight of 0 is refused.
bool AcceptsGzip(absl::string_view value) {
  for (const absl::string_view entry : absl::StrSplit(value, ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(entry, ';');
    if (!absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(parts[0]), "gzip")) {
      continue;
    }
    if (parts.size() == 1) return true;
    const absl::string_view weight = absl::StripAsciiWhitespace(parts[1]);
    return weight.find_first_not_of("0.", 2) != weight.npos;
  }
  return false;
}

bool ParseHeaderLine(absl::string_view line, HttpRequest& request) {
  const size_t colon = line.find(':');
  if (colon == line.npos || !IsToken(line.substr(0, colon))) return false;
  const absl::string_view value = line.substr(colon + 1);
  if (std::any_of(value.begin(), value.end(),
                  [](char c) { return absl::ascii_iscntrl(c) && c != '\t'; })) {
    return false;
  }
  if (absl::EqualsIgnoreCase(line.substr(0, colon), "accept-encoding")) {
    request.accepts_gzip = AcceptsGzip(value);
  }
  return true;
}

}  // namespace

std::optional<HttpRequest> ParseHttpRequest(absl::string_view head) {
  if (!absl::ConsumeSuffix(&head, "\r\n\r\n")) return std::nullopt;
  const std::vector<absl::string_view> lines = absl::StrSplit(head, "\r\n");
  HttpRequest request;
  if (!ParseRequestLine(lines[0], request)) return std::nullopt;
  for (size_t i = 1; i < lines.size(); ++i) {
    if (!ParseHeaderLine(lines[i], request)) return std::nullopt;
  }
  return request;
}

}  // namespace sparseserve
