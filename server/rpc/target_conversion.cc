#include "server/rpc/target_conversion.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "engine/base/str_cat.h"
#include "google/protobuf/duration.pb.h"

namespace sparseserve {
namespace {

using ::google::protobuf::Duration;

constexpr absl::Duration kLongestFirstToken = absl::Hours(1);
constexpr absl::Duration kLongestOutputToken = absl::Minutes(1);
constexpr absl::Duration kLongestTotal = absl::Hours(24);

std::string RangeUpTo(absl::Duration longest) {
  return StrCat("above 0 and at most ", absl::FormatDuration(longest));
}

// Absent: infinite. Otherwise above 0 and at most `longest`.
absl::Duration ConvertDuration(const std::string& field, bool present,
                               const Duration& value, absl::Duration longest,
                               FieldErrors& errors) {
  if (!present) return absl::InfiniteDuration();
  const absl::Duration duration =
      absl::Seconds(value.seconds()) + absl::Nanoseconds(value.nanos());
  const bool well_formed = std::abs(int64_t{value.nanos()}) < 1'000'000'000 &&
                           (value.seconds() == 0 || value.nanos() == 0 ||
                            (value.seconds() < 0) == (value.nanos() < 0));
  if (!well_formed) {
    errors.Add(field,
               StrCat("seconds ", value.seconds(), " nanos ", value.nanos()),
               "a Duration: nanos below 1e9 in size, of the sign of seconds");
  } else if (duration <= absl::ZeroDuration() || duration > longest) {
    errors.Add(field, absl::FormatDuration(duration), RangeUpTo(longest));
  }
  return duration;
}

absl::Duration ConvertMilliseconds(const char* key, std::string_view text,
                                   absl::Duration longest,
                                   FieldErrors& errors) {
  if (text.empty()) return absl::InfiniteDuration();
  double milliseconds = 0;
  const bool is_plain =
      text.size() <= 32 && text.find_first_not_of("0123456789.") == text.npos;
  const bool is_number =
      is_plain && absl::SimpleAtod(absl::string_view(text.data(), text.size()),
                                   &milliseconds);
  const absl::Duration duration = absl::Milliseconds(milliseconds);
  if (!is_number || duration <= absl::ZeroDuration() || duration > longest) {
    errors.Add(key, std::string(text),
               StrCat("a number of milliseconds, ", RangeUpTo(longest)));
  }
  return duration;
}

OnMiss ConvertOnMiss(const std::string& field, v1::LatencyTarget::OnMiss value,
                     FieldErrors& errors) {
  switch (value) {
    case v1::LatencyTarget::ON_MISS_UNSPECIFIED:
    case v1::LatencyTarget::DENSE:
      return OnMiss::kDense;
    case v1::LatencyTarget::DEGRADE:
      return OnMiss::kDegrade;
    case v1::LatencyTarget::REJECT:
      return OnMiss::kReject;
    default:
      errors.Add(field, StrCat(static_cast<int>(value)),
                 "a value of LatencyTarget.OnMiss");
      return OnMiss::kDense;
  }
}

}  // namespace

LatencyTarget ConvertTarget(std::string_view field,
                            const v1::LatencyTarget& target,
                            FieldErrors& errors) {
  const auto part = [field](const char* name) {
    return StrCat(field, ".", name);
  };
  LatencyTarget result;
  result.time_to_first_token = ConvertDuration(
      part("time_to_first_token"), target.has_time_to_first_token(),
      target.time_to_first_token(), kLongestFirstToken, errors);
  result.time_per_output_token = ConvertDuration(
      part("time_per_output_token"), target.has_time_per_output_token(),
      target.time_per_output_token(), kLongestOutputToken, errors);
  result.total = ConvertDuration(part("total"), target.has_total(),
                                 target.total(), kLongestTotal, errors);
  result.on_miss = ConvertOnMiss(part("on_miss"), target.on_miss(), errors);
  return result;
}

LatencyTarget TargetOfMetadata(std::string_view first_token_ms,
                               std::string_view output_token_ms,
                               FieldErrors& errors) {
  LatencyTarget result;
  result.time_to_first_token = ConvertMilliseconds(
      kFirstTokenKey, first_token_ms, kLongestFirstToken, errors);
  result.time_per_output_token = ConvertMilliseconds(
      kOutputTokenKey, output_token_ms, kLongestOutputToken, errors);
  return result;
}

LatencyTarget SettleTarget(const LatencyTarget& named,
                           const LatencyTarget& metadata,
                           const DefaultTargets& defaults, int priority) {
  if (named.is_named() || metadata.is_named()) {
    LatencyTarget result = named;
    if (named.time_to_first_token == absl::InfiniteDuration()) {
      result.time_to_first_token = metadata.time_to_first_token;
    }
    if (named.time_per_output_token == absl::InfiniteDuration()) {
      result.time_per_output_token = metadata.time_per_output_token;
    }
    return result;
  }
  const auto found = defaults.find(priority);
  return found == defaults.end() ? named : found->second;
}

}  // namespace sparseserve
