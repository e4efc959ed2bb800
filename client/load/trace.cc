#include "client/load/trace.h"

#include <cmath>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sparseserve {
namespace {

constexpr absl::string_view kHeader = "arrival_s,prompt_tokens,output_tokens";
constexpr int kMaxTokens = 1 << 24;
// A month; longer traces are no load test.
constexpr double kMaxArrivalSeconds = 31 * 86400.0;

// As it stands in an error: bounded, printable.
std::string Quote(absl::string_view value) {
  return absl::StrCat("\"", absl::CHexEscape(value.substr(0, 60)), "\"");
}

absl::Status ReadTokens(absl::string_view field, absl::string_view name,
                        int& tokens) {
  if (!absl::SimpleAtoi(field, &tokens) || tokens < 1 || tokens > kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " ", Quote(field), " is not a whole number of 1 to ",
                     kMaxTokens));
  }
  return absl::OkStatus();
}

absl::Status ReadRequest(absl::string_view line, absl::Duration previous,
                         TraceRequest& request) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
  if (fields.size() != 3) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quote(line), " has ", fields.size(), " fields, expected 3: ", kHeader));
  }
  double seconds = 0;
  if (!absl::SimpleAtod(fields[0], &seconds) || !std::isfinite(seconds) ||
      seconds < 0 || seconds > kMaxArrivalSeconds) {
    return absl::InvalidArgumentError(
        absl::StrCat("arrival_s ", Quote(fields[0]),
                     " is not a number of 0 to ", kMaxArrivalSeconds));
  }
  request.arrival = absl::Seconds(seconds);
  if (request.arrival < previous) {
    return absl::InvalidArgumentError(absl::StrCat(
        "arrival_s ", Quote(fields[0]), " is before the ",
        absl::ToDoubleSeconds(previous), " of the request above it"));
  }
  absl::Status read =
      ReadTokens(fields[1], "prompt_tokens", request.prompt_tokens);
  if (!read.ok()) return read;
  return ReadTokens(fields[2], "output_tokens", request.output_tokens);
}

}  // namespace

absl::StatusOr<std::vector<TraceRequest>> ParseTrace(absl::string_view text,
                                                     absl::string_view name) {
  std::vector<TraceRequest> requests;
  bool has_header = false;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || absl::StartsWith(line, "#")) continue;
    if (!has_header) {
      if (line != kHeader) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, ":", number, ": expected the header ", kHeader,
                         ", found ", Quote(line)));
      }
      has_header = true;
      continue;
    }
    TraceRequest request;
    const absl::Status read = ReadRequest(
        line, requests.empty() ? absl::ZeroDuration() : requests.back().arrival,
        request);
    if (!read.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", number, ": ", read.message()));
    }
    requests.push_back(request);
  }
  if (requests.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has no requests"));
  }
  return requests;
}

}  // namespace sparseserve
