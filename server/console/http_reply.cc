#include "server/console/http_reply.h"

#include <zlib.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sparseserve {
namespace {

// Shorter bodies fit into one packet anyway.
constexpr size_t kMinGzipBytes = 1 << 10;

absl::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    default:
      return "Error";
  }
}

// Fast rather than small: it is done beside the engine's work.
std::optional<std::string> Gzip(const std::string& body) {
  z_stream stream = {};
  constexpr int kGzipFormat = 16;
  constexpr int kMemoryLevel = 8;  // zlib's default
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, MAX_WBITS + kGzipFormat,
                   kMemoryLevel, Z_DEFAULT_STRATEGY) != Z_OK) {
    return std::nullopt;
  }
  std::string packed(deflateBound(&stream, body.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(body.data()));
  stream.avail_in = static_cast<uInt>(body.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  const int result = deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  if (result != Z_STREAM_END) return std::nullopt;
  return packed;
}

}  // namespace

HttpReply StatusReply(int status) {
  HttpReply reply;
  reply.status = status;
  reply.body = absl::StrCat(status, " ", Reason(status), "\n");
  return reply;
}

std::string Serialize(const HttpReply& reply, bool gzip) {
  std::optional<std::string> packed;
  if (gzip && reply.body.size() >= kMinGzipBytes) packed = Gzip(reply.body);
  const std::string& body = packed.has_value() ? *packed : reply.body;
  std::string text = absl::StrCat(
      "HTTP/1.1 ", reply.status, " ", Reason(reply.status),
      "\r\nContent-Type: ", reply.content_type,
      "\r\nContent-Length: ", body.size(),
      "\r\nContent-Security-Policy: ", reply.content_security_policy,
      "\r\nX-Content-Type-Options: nosniff"
      "\r\nX-Frame-Options: DENY"
      "\r\nReferrer-Policy: no-referrer"
      "\r\nCross-Origin-Resource-Policy: same-origin"
      "\r\nCache-Control: no-store"
      "\r\nVary: Accept-Encoding"
      "\r\nConnection: close\r\n");
  if (!reply.allow.empty())
    absl::StrAppend(&text, "Allow: ", reply.allow, "\r\n");
  if (packed.has_value()) absl::StrAppend(&text, "Content-Encoding: gzip\r\n");
  absl::StrAppend(&text, "\r\n", body);
  return text;
}

}  // namespace sparseserve
