#include "engine/tokenizer/token_count_bound.h"

#include <algorithm>

namespace sparseserve {
namespace {

// Shares of a token sum to it; no text of 2^31 bytes overflows the sum.
constexpr uint64_t kWholeToken = uint64_t{1} << 32;

}  // namespace

void TokenCountBound::Add(std::string_view bytes) {
  for (const char byte : bytes) {
    uint64_t& most = longest_[static_cast<uint8_t>(byte)];
    most = std::max<uint64_t>(most, bytes.size());
  }
}

void TokenCountBound::Exempt(uint8_t byte) { exempt_[byte] = true; }

// A token of n bytes, each in no longer token than some m >= n, has shares of
// 1/m that sum to 1 at most: the sum over a text cannot exceed its tokens.
bool TokenCountBound::Exceeded(int64_t max_tokens,
                               std::string_view text) const {
  if (max_tokens >= static_cast<int64_t>(text.size())) return false;
  std::array<uint64_t, 256> shares = {};
  for (size_t byte = 0; byte < shares.size(); ++byte) {
    if (exempt_[byte] || longest_[byte] == 0) continue;
    shares[byte] = kWholeToken / longest_[byte];
  }
  uint64_t sum = 0;
  for (const char byte : text) sum += shares[static_cast<uint8_t>(byte)];
  const uint64_t limit =
      static_cast<uint64_t>(std::max<int64_t>(max_tokens, 0));
  return sum / kWholeToken > limit ||
         (sum / kWholeToken == limit && sum % kWholeToken > 0);
}

}  // namespace sparseserve
