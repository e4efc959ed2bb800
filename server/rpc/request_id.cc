#include "server/rpc/request_id.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_format.h"

namespace sparseserve {
namespace {

bool IsLowerHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
}

bool IsZero(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c == '0'; });
}

}  // namespace

bool IsRequestId(std::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         std::all_of(id.begin(), id.end(),
                     [](char c) { return c > ' ' && c <= '~'; });
}

std::string NewRequestId() {
  return absl::StrFormat("%016x%016x", RandomBits(), RandomBits());
}

uint64_t RandomBits() {
  std::random_device source;
  return (uint64_t{source()} << 32) | source();
}

// version "-" trace-id "-" parent-id "-" flags: 2, 32, 16 and 2 hexadecimal
// digits; versions after 00 may append more (W3C Trace Context, section 3.2).
std::string TraceparentOf(std::string_view header) {
  constexpr size_t kLength = 55;
  if (header.size() < kLength) return "";
  const std::string_view version = header.substr(0, 2);
  const std::string_view trace_id = TraceIdOf(header);
  const std::string_view parent_id = header.substr(36, 16);
  const std::string_view flags = header.substr(53, 2);
  const bool separated =
      header[2] == '-' && header[35] == '-' && header[52] == '-';
  const bool ends =
      header.size() == kLength || (version != "00" && header[kLength] == '-');
  if (!separated || !ends || !IsLowerHex(version) || version == "ff" ||
      !IsLowerHex(trace_id) || IsZero(trace_id) || !IsLowerHex(parent_id) ||
      IsZero(parent_id) || !IsLowerHex(flags)) {
    return "";
  }
  return std::string(header.substr(0, kLength));
}

std::string_view TraceIdOf(std::string_view traceparent) {
  return traceparent.empty() ? traceparent : traceparent.substr(3, 32);
}

}  // namespace sparseserve
