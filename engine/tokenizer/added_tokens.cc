#include "engine/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace sparseserve {

AddedTokens::AddedTokens(std::vector<Literal> literals) {
  std::sort(literals.begin(), literals.end(),
            [](const Literal& a, const Literal& b) { return a.text < b.text; });
  size_t total = 0;
  for (const Literal& literal : literals) total += literal.text.size();
  bytes_.reserve(total);
  entries_.reserve(literals.size());
  std::string_view before;
  for (const Literal& literal : literals) {
    SPARSESERVE_CHECK(!literal.text.empty() &&
                      literal.text.size() <= kMaxBytes);
    SPARSESERVE_CHECK(literal.text != std::exchange(before, literal.text));
    begins_[static_cast<uint8_t>(literal.text[0])] = true;
    entries_.push_back({bytes_.size(),
                        static_cast<uint32_t>(literal.text.size()),
                        literal.token});
    bytes_ += literal.text;
  }
}

int AddedTokens::ByteAt(const Entry& entry, size_t index) const {
  if (index >= entry.bytes) return -1;
  return static_cast<uint8_t>(bytes_[entry.begin + index]);
}

// Narrows the entries, byte by byte, to those that begin like the text.
std::optional<AddedTokens::Match> AddedTokens::LongestAt(std::string_view text,
                                                         size_t offset) const {
  std::optional<Match> longest;
  auto first = entries_.begin();
  auto last = entries_.end();
  for (size_t i = 0; offset + i < text.size() && first != last; ++i) {
    const int byte = static_cast<uint8_t>(text[offset + i]);
    first = std::partition_point(
        first, last, [&](const Entry& e) { return ByteAt(e, i) < byte; });
    last = std::partition_point(
        first, last, [&](const Entry& e) { return ByteAt(e, i) == byte; });
    if (first != last && first->bytes == i + 1) {
      longest = Match{offset, i + 1, first->token};
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
