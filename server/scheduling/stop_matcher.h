#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace sparseserve {

// Finds stop strings in a stream of bytes: one Knuth-Morris-Pratt automaton per
// string, so a byte costs the same whatever strings a caller chose.
class StopMatcher {
 public:
  // Borrows `strings`, each of at least one byte.
  explicit StopMatcher(absl::Span<const std::string> strings);

  // Takes one byte; returns the index of the longest string that ends with it.
  std::optional<size_t> Feed(char byte);

  // Bytes at the end of what was fed that may yet become a stop string: the
  // longest tail that is the beginning of one, but not all of it.
  size_t held() const;

 private:
  struct Automaton {
    const std::string* string;
    // [length + 1]: of the first i bytes, the longest proper tail that is also
    // their beginning.
    std::vector<size_t> border;
    size_t matched = 0;
  };

  std::vector<Automaton> automata_;
};

}  // namespace sparseserve
