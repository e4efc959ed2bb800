#include "server/simulation/trace.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr absl::string_view kHeader = "arrival_s,prompt_tokens,output_tokens";
constexpr int kMostTokens = 1 << 24;
constexpr double kMostSeconds = 31 * 86400.0;
constexpr size_t kShownBytes = 60;

absl::StatusOr<TracedRequest> ParseLine(absl::string_view line) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
  double seconds = 0;
  TracedRequest request;
  // Also false for NaN.
  const bool fits =
      fields.size() == 3 && absl::SimpleAtod(fields[0], &seconds) &&
      seconds >= 0 && seconds <= kMostSeconds &&
      absl::SimpleAtoi(fields[1], &request.prompt_tokens) &&
      absl::SimpleAtoi(fields[2], &request.output_tokens) &&
      request.prompt_tokens >= 1 && request.prompt_tokens <= kMostTokens &&
      request.output_tokens >= 1 && request.output_tokens <= kMostTokens;
  if (!fits) {
    return absl::InvalidArgumentError(
        StrCat("\"", absl::CHexEscape(line.substr(0, kShownBytes)),
               "\" is not ", kHeader, " with seconds of 0 to ", kMostSeconds,
               " and 1 to ", kMostTokens, " tokens"));
  }
  request.arrival = absl::Seconds(seconds);
  return request;
}

}  // namespace

absl::StatusOr<std::vector<TracedRequest>> ParseTrace(std::string_view text,
                                                      std::string_view name) {
  std::vector<TracedRequest> requests;
  bool has_header = false;
  int number = 0;
  for (absl::string_view line :
       absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    if (!has_header) {
      if (line != kHeader) {
        return absl::InvalidArgumentError(StrCat(
            name, ":", number, ": expected the header ", kHeader, ", found \"",
            absl::CHexEscape(line.substr(0, kShownBytes)), "\""));
      }
      has_header = true;
      continue;
    }
    const absl::StatusOr<TracedRequest> request = ParseLine(line);
    if (!request.ok()) {
      return absl::InvalidArgumentError(
          StrCat(name, ":", number, ": ", request.status().message()));
    }
    if (!requests.empty() && request->arrival < requests.back().arrival) {
      return absl::InvalidArgumentError(
          StrCat(name, ":", number, ": arrival_s ",
                 absl::ToDoubleSeconds(request->arrival), " is before the ",
                 absl::ToDoubleSeconds(requests.back().arrival),
                 " of the request above it"));
    }
    requests.push_back(*request);
  }
  if (requests.empty()) {
    return absl::InvalidArgumentError(StrCat(name, " has no requests"));
  }
  return requests;
}

}  // namespace sparseserve
