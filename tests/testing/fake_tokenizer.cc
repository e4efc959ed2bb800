#include "tests/testing/fake_tokenizer.h"

#include <utility>

namespace sparseserve::testing {

FakeTokenizer::FakeTokenizer(std::vector<std::string> pieces) {
  for (int byte = 0; byte < 256; ++byte) {
    bytes_.emplace_back(1, static_cast<char>(byte));
  }
  bytes_.emplace_back("<end>");
  for (std::string& piece : pieces) bytes_.push_back(std::move(piece));
}

absl::StatusOr<std::vector<TokenId>> FakeTokenizer::Encode(
    std::string_view text, bool /*parse_special*/, int64_t max_tokens) const {
  if (static_cast<int64_t>(text.size()) > max_tokens) {
    return absl::OutOfRangeError("too many tokens");
  }
  std::vector<TokenId> tokens;
  for (const char byte : text) {
    tokens.push_back(static_cast<unsigned char>(byte));
  }
  return tokens;
}

std::string_view FakeTokenizer::TokenBytes(TokenId token) const {
  return bytes_.at(token);
}

}  // namespace sparseserve::testing
