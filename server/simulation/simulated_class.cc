#include "server/simulation/simulated_class.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr int kMostPrefixTokens = 1 << 24;

bool ReadTime(absl::string_view text, absl::Duration& time) {
  return absl::ParseDuration(text, &time) && time > absl::ZeroDuration();
}

bool ReadOnMiss(absl::string_view text, OnMiss& on_miss) {
  if (text == "dense") {
    on_miss = OnMiss::kDense;
  } else if (text == "degrade") {
    on_miss = OnMiss::kDegrade;
  } else if (text == "reject") {
    on_miss = OnMiss::kReject;
  } else {
    return false;
  }
  return true;
}

bool ReadWhole(absl::string_view text, int least, int most, int& value) {
  return absl::SimpleAtoi(text, &value) && value >= least && value <= most;
}

// What is expected of `key`; empty once `value` is read.
std::string ReadKey(absl::string_view key, absl::string_view value,
                    SimulatedClass& read) {
  constexpr char kTime[] = "a time above 0 such as 200ms";
  if (key == "ttft") {
    return ReadTime(value, read.target.time_to_first_token) ? "" : kTime;
  }
  if (key == "tpot") {
    return ReadTime(value, read.target.time_per_output_token) ? "" : kTime;
  }
  if (key == "total") return ReadTime(value, read.target.total) ? "" : kTime;
  if (key == "deadline") return ReadTime(value, read.deadline) ? "" : kTime;
  if (key == "on_miss") {
    return ReadOnMiss(value, read.target.on_miss) ? ""
                                                  : "dense, degrade or reject";
  }
  if (key == "share") {
    const bool fits = absl::SimpleAtod(value, &read.share) && read.share > 0 &&
                      read.share <= 1e9;
    return fits ? "" : "a number above 0";
  }
  if (key == "priority") {
    return ReadWhole(value, kLeastPriority, kMostPriority, read.priority)
               ? ""
               : StrCat(kLeastPriority, " to ", kMostPriority);
  }
  if (key == "prefix_tokens") {
    return ReadWhole(value, 0, kMostPrefixTokens, read.prefix_tokens)
               ? ""
               : StrCat("0 to ", kMostPrefixTokens);
  }
  return "one of the keys share, ttft, tpot, total, deadline, on_miss, "
         "priority, prefix_tokens";
}

absl::StatusOr<SimulatedClass> ParseClass(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> halves =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  SimulatedClass read;
  read.name = std::string(halves.first);
  if (read.name.empty()) {
    return absl::InvalidArgumentError(
        StrCat("class \"", text, "\" does not begin with a name"));
  }
  for (const absl::string_view part :
       absl::StrSplit(halves.second, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> entry =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string expected = ReadKey(entry.first, entry.second, read);
    if (!expected.empty()) {
      return absl::InvalidArgumentError(
          StrCat("class ", read.name, ": \"", part, "\": expected ", expected));
    }
  }
  return read;
}

}  // namespace

absl::StatusOr<std::vector<SimulatedClass>> ParseClasses(
    std::string_view text) {
  std::vector<SimulatedClass> classes;
  for (const absl::string_view part :
       absl::StrSplit(absl::string_view(text.data(), text.size()), ';',
                      absl::SkipWhitespace())) {
    ASSIGN_OR_RETURN(SimulatedClass read, ParseClass(part));
    if (absl::c_any_of(classes, [&](const SimulatedClass& other) {
          return other.name == read.name;
        })) {
      return absl::InvalidArgumentError(
          StrCat("class ", read.name, " is there twice"));
    }
    classes.push_back(std::move(read));
  }
  if (classes.empty()) {
    return absl::InvalidArgumentError("there are no classes");
  }
  return classes;
}

}  // namespace sparseserve
