#include "client/load/load_class.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sparseserve {
namespace {

constexpr int kMaxTokens = 1 << 24;
constexpr size_t kMaxNameBytes = 40;

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '_' || c == '-';
         });
}

bool ReadTime(absl::string_view value, absl::Duration& time) {
  return absl::ParseDuration(value, &time) && time > absl::ZeroDuration() &&
         time < absl::InfiniteDuration();
}

bool ReadOnMiss(absl::string_view value, v1::LatencyTarget::OnMiss& on_miss) {
  return v1::LatencyTarget::OnMiss_Parse(absl::AsciiStrToUpper(value),
                                         &on_miss);
}

bool ReadRange(absl::string_view value, std::optional<LengthRange>& range) {
  auto read = ParseLengthRange(value);
  if (read.ok()) range = *read;
  return read.ok();
}

// What is expected for `key`; empty once `value` is read.
absl::string_view ReadKey(absl::string_view key, absl::string_view value,
                          LoadClass& read) {
  constexpr absl::string_view kTime = "a time above 0 such as 200ms";
  constexpr absl::string_view kRange = "tokens as N or MIN..MAX";
  bool fits = false;
  absl::string_view expected;
  if (key == "share") {
    expected = "a number above 0";
    fits = absl::SimpleAtod(value, &read.share) && read.share > 0 &&
           std::isfinite(read.share);
  } else if (key == "ttft") {
    expected = kTime;
    fits = ReadTime(value, read.time_to_first_token);
  } else if (key == "tpot") {
    expected = kTime;
    fits = ReadTime(value, read.time_per_output_token);
  } else if (key == "total") {
    expected = kTime;
    fits = ReadTime(value, read.total);
  } else if (key == "deadline") {
    expected = kTime;
    fits = ReadTime(value, read.deadline);
  } else if (key == "on_miss") {
    expected = "dense, degrade or reject";
    fits = ReadOnMiss(value, read.on_miss);
  } else if (key == "priority") {
    expected = "a whole number";
    fits = absl::SimpleAtoi(value, &read.priority);
  } else if (key == "plan") {
    expected = "a plan's name";
    read.plan = std::string(value);
    fits = !value.empty();
  } else if (key == "prompt_tokens") {
    expected = kRange;
    fits = ReadRange(value, read.prompt_tokens);
  } else if (key == "output_tokens") {
    expected = kRange;
    fits = ReadRange(value, read.output_tokens);
  } else {
    expected =
        "one of the keys share, ttft, tpot, total, on_miss, deadline, "
        "priority, plan, prompt_tokens, output_tokens";
  }
  return fits ? absl::string_view() : expected;
}

void SetDuration(absl::Duration from, google::protobuf::Duration& to) {
  absl::Duration rest;
  to.set_seconds(absl::IDivDuration(from, absl::Seconds(1), &rest));
  to.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

}  // namespace

absl::StatusOr<LengthRange> ParseLengthRange(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(text, absl::MaxSplits("..", 1));
  LengthRange range;
  const bool read =
      absl::SimpleAtoi(ends.first, &range.least) &&
      absl::SimpleAtoi(text.find("..") == text.npos ? ends.first : ends.second,
                       &range.most);
  if (!read || range.least < 1 || range.most < range.least ||
      range.most > kMaxTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text, "\" is not N or MIN..MAX of 1 to ", kMaxTokens, " tokens"));
  }
  return range;
}

bool LoadClass::HasTargets() const {
  return time_to_first_token < absl::InfiniteDuration() ||
         time_per_output_token < absl::InfiniteDuration() ||
         total < absl::InfiniteDuration() ||
         deadline < absl::InfiniteDuration();
}

std::optional<v1::LatencyTarget> LoadClass::Target() const {
  v1::LatencyTarget target;
  if (time_to_first_token < absl::InfiniteDuration()) {
    SetDuration(time_to_first_token, *target.mutable_time_to_first_token());
  }
  if (time_per_output_token < absl::InfiniteDuration()) {
    SetDuration(time_per_output_token, *target.mutable_time_per_output_token());
  }
  if (total < absl::InfiniteDuration()) {
    SetDuration(total, *target.mutable_total());
  }
  target.set_on_miss(on_miss);
  if (target.ByteSizeLong() == 0) return std::nullopt;
  return target;
}

absl::StatusOr<LoadClass> ParseLoadClass(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> halves =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  LoadClass read;
  read.name = std::string(halves.first);
  if (!IsName(read.name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" does not begin with a class's name of ",
                     kMaxNameBytes, " letters, digits, _ and - at most"));
  }
  if (halves.second.empty()) return read;
  for (const absl::string_view part : absl::StrSplit(halves.second, ',')) {
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const absl::string_view expected = ReadKey(entry.first, entry.second, read);
    if (!expected.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "class ", read.name, ": \"", part, "\": expected ", expected));
    }
  }
  return read;
}

}  // namespace sparseserve
