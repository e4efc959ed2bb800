#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/step.h"

namespace sparseserve {

// Tokens that are found in text as they stand, before it is split into words.
// Immutable after the last Add(); then any thread may call the rest.
class AddedTokens {
 public:
  // Longest literal: bounds the work at each byte of a text.
  static constexpr size_t kMaxBytes = 256;

  struct Match {
    size_t offset;
    size_t bytes;
    TokenId token;
  };

  // REQUIRES: `literal` is new, and of 1 to kMaxBytes bytes.
  void Add(std::string_view literal, TokenId token);

  // The leftmost match at or after `offset`; of those that begin there, the
  // longest.
  std::optional<Match> FindNext(std::string_view text, size_t offset) const;

 private:
  std::optional<Match> LongestAt(std::string_view text, size_t offset) const;

  // A trie: children_ maps (node, byte) to a node, ends_ a node to its token.
  // Node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> children_;
  std::vector<std::optional<TokenId>> ends_ = {std::nullopt};
  std::array<bool, 256> begins_ = {};  // bytes that begin some literal
};

}  // namespace sparseserve
