#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve::testing {

// Tokens 0 ... 255 are the single bytes; kEndToken ends a generation; tokens
// from kFirstPiece on are the pieces that it was made with.
class FakeTokenizer : public Tokenizer {
 public:
  static constexpr TokenId kEndToken = 256;  // special
  static constexpr TokenId kFirstPiece = 257;

  explicit FakeTokenizer(std::vector<std::string> pieces = {});

  // One token per byte.
  using Tokenizer::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      std::string_view text, bool parse_special,
      int64_t max_tokens) const override;
  std::string_view TokenBytes(TokenId token) const override;
  bool IsSpecial(TokenId token) const override { return token == kEndToken; }
  int vocab_size() const override { return static_cast<int>(bytes_.size()); }
  const std::vector<TokenId>& end_tokens() const override {
    return end_tokens_;
  }

 private:
  std::vector<std::string> bytes_;
  const std::vector<TokenId> end_tokens_ = {kEndToken};
};

}  // namespace sparseserve::testing
