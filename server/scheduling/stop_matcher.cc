#include "server/scheduling/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace sparseserve {

StopMatcher::StopMatcher(absl::Span<const std::string> strings) {
  automata_.reserve(strings.size());
  for (const std::string& string : strings) {
    SPARSESERVE_CHECK(!string.empty());
    std::vector<size_t> border(string.size() + 1, 0);
    size_t matched = 0;
    for (size_t i = 1; i < string.size(); ++i) {
      while (matched > 0 && string[matched] != string[i]) {
        matched = border[matched];
      }
      if (string[matched] == string[i]) ++matched;
      border[i + 1] = matched;
    }
    automata_.push_back({&string, std::move(border)});
  }
}

std::optional<size_t> StopMatcher::Feed(char byte) {
  std::optional<size_t> longest;
  for (size_t i = 0; i < automata_.size(); ++i) {
    Automaton& automaton = automata_[i];
    const std::string& string = *automaton.string;
    size_t& matched = automaton.matched;
    while (matched > 0 && string[matched] != byte) {
      matched = automaton.border[matched];
    }
    if (string[matched] == byte) ++matched;
    if (matched == string.size()) {
      matched = automaton.border[matched];
      if (!longest.has_value() ||
          string.size() > automata_[*longest].string->size()) {
        longest = i;
      }
    }
  }
  return longest;
}

size_t StopMatcher::held() const {
  size_t longest = 0;
  for (const Automaton& automaton : automata_) {
    longest = std::max(longest, automaton.matched);
  }
  return longest;
}

}  // namespace sparseserve
