#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// Tokens that say nothing, and none that ends a generation.
class PlaceholderTokenizer : public Tokenizer {
 public:
  static constexpr int kVocabSize = 32768;

  using Tokenizer::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view, bool,
                                              int64_t) const override {
    return absl::UnimplementedError("simulated requests have no text");
  }
  std::string_view TokenBytes(TokenId) const override { return "."; }
  bool IsSpecial(TokenId) const override { return false; }
  int vocab_size() const override { return kVocabSize; }
  const std::vector<TokenId>& end_tokens() const override {
    return end_tokens_;
  }

 private:
  const std::vector<TokenId> end_tokens_ = {};
};

}  // namespace sparseserve
