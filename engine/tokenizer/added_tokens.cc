#include "engine/tokenizer/added_tokens.h"

#include "engine/base/check.h"

namespace sparseserve {
namespace {

uint64_t EdgeKey(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

}  // namespace

void AddedTokens::Add(std::string_view literal, TokenId token) {
  SPARSESERVE_CHECK(!literal.empty() && literal.size() <= kMaxBytes);
  begins_[static_cast<uint8_t>(literal[0])] = true;
  uint32_t node = 0;
  for (const char byte : literal) {
    const uint32_t fresh = static_cast<uint32_t>(ends_.size());
    const auto [edge, added] = children_.emplace(EdgeKey(node, byte), fresh);
    if (added) ends_.push_back(std::nullopt);
    node = edge->second;
  }
  SPARSESERVE_CHECK(!ends_[node].has_value());
  ends_[node] = token;
}

std::optional<AddedTokens::Match> AddedTokens::LongestAt(std::string_view text,
                                                         size_t offset) const {
  std::optional<Match> longest;
  uint32_t node = 0;
  for (size_t i = offset; i < text.size(); ++i) {
    const auto edge = children_.find(EdgeKey(node, text[i]));
    if (edge == children_.end()) break;
    node = edge->second;
    if (ends_[node].has_value()) {
      longest = Match{offset, i + 1 - offset, *ends_[node]};
    }
  }
  return longest;
}

std::optional<AddedTokens::Match> AddedTokens::FindNext(std::string_view text,
                                                        size_t offset) const {
  for (size_t i = offset; i < text.size(); ++i) {
    if (!begins_[static_cast<uint8_t>(text[i])]) continue;
    if (const std::optional<Match> match = LongestAt(text, i)) return match;
  }
  return std::nullopt;
}

}  // namespace sparseserve
