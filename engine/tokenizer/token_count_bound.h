#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace sparseserve {

// A lower bound of the tokens that a text has, from one cheap look at each of
// its bytes: what refuses a long prompt before it is encoded. Immutable after
// the last Add(); then any thread may call Exceeded().
class TokenCountBound {
 public:
  // Counts a token that stands for `bytes`.
  void Add(std::string_view bytes);
  // `byte` may disappear from an encoding: it is no sign of a token.
  void Exempt(uint8_t byte);

  // Whether any encoding of `text` has more tokens. Never wrong when true.
  // REQUIRES: text.size() < 2^31; each byte that some text may have occurs in
  // an added token or is exempt.
  bool Exceeded(int64_t max_tokens, std::string_view text) const;

 private:
  std::array<uint64_t, 256> longest_ = {};  // token with the byte in it
  std::array<bool, 256> exempt_ = {};
};

}  // namespace sparseserve
