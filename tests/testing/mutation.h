#pragma once

#include <cstddef>
#include <random>
#include <string>

namespace sparseserve::testing {

// Changes, cuts or repeats bytes at one to four random places, most of them
// among the first `header_bytes`, where a file says what it holds.
// REQUIRES: 9 < header_bytes <= original.size().
std::string Mutate(const std::string& original, size_t header_bytes,
                   std::mt19937& random);
// Likewise, at any place. REQUIRES: original.size() > 9.
inline std::string Mutate(const std::string& original, std::mt19937& random) {
  return Mutate(original, original.size(), random);
}

}  // namespace sparseserve::testing
