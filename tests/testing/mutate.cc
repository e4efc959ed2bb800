#include "tests/testing/mutate.h"

#include <cstdint>
#include <cstring>

namespace sparseserve::testing {

std::string Mutate(const std::string& original, std::mt19937& random) {
  const auto below = [&random](size_t limit) { return random() % limit; };
  std::string bytes = original;
  for (size_t i = below(4) + 1; i > 0 && bytes.size() > 9; --i) {
    const size_t place = below(bytes.size() - 8);
    switch (below(6)) {
      case 0:
        bytes[place] ^= static_cast<char>(1 << below(8));
        break;
      case 1:
        bytes[place] = static_cast<char>(below(256));
        break;
      case 2:
        bytes.resize(place);
        break;
      case 3:
        bytes.erase(place, below(8) + 1);
        break;
      case 4:
        bytes.insert(place, bytes.substr(place, below(16) + 1));
        break;
      default: {
        constexpr uint64_t kHuge = uint64_t{1} << 60;
        const uint64_t extremes[] = {
            0, 1, kHuge, UINT64_MAX, UINT64_MAX - 31, 1u << 31};
        std::memcpy(&bytes[place], &extremes[below(6)], 8);
        break;
      }
    }
  }
  return bytes;
}

}  // namespace sparseserve::testing
