#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/step.h"

namespace sparseserve {

// Tokens that are found in text as they stand, before it is split into words.
// Immutable, for any thread. Takes 16 bytes a token beside the literals.
class AddedTokens {
 public:
  // Longest literal: bounds the work at each byte of a text.
  static constexpr size_t kMaxBytes = 256;

  struct Literal {
    std::string_view text;
    TokenId token;
  };
  struct Match {
    size_t offset;
    size_t bytes;
    TokenId token;
  };

  AddedTokens() = default;
  // Copies the literals. REQUIRES: they differ from each other, and are of 1
  // to kMaxBytes bytes.
  explicit AddedTokens(std::vector<Literal> literals);

  // The leftmost match at or after `offset`; of those that begin there, the
  // longest.
  std::optional<Match> FindNext(std::string_view text, size_t offset) const;

 private:
  struct Entry {
    size_t begin;  // in bytes_
    uint32_t bytes;
    TokenId token;
  };

  std::optional<Match> LongestAt(std::string_view text, size_t offset) const;
  // -1 behind the literal's end, so that it comes before what continues it.
  int ByteAt(const Entry& entry, size_t index) const;

  std::string bytes_;                  // of all literals
  std::vector<Entry> entries_;         // in the order of their bytes
  std::array<bool, 256> begins_ = {};  // bytes that begin some literal
};

}  // namespace sparseserve
