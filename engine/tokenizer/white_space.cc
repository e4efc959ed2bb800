#include "engine/tokenizer/white_space.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace sparseserve {
namespace {

constexpr std::array<std::string_view, 19> kWideSpaces = {
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
    "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
    "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

bool IsNarrowSpace(char c) {
  return (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= ' ');
}

// Bytes of the white space that `text` begins with, 0 if it does not.
size_t SpaceAtBegin(std::string_view text) {
  if (text.empty()) return 0;
  if (IsNarrowSpace(text[0])) return 1;
  for (const std::string_view space : kWideSpaces) {
    if (text.substr(0, space.size()) == space) return space.size();
  }
  return 0;
}

size_t SpaceAtEnd(std::string_view text) {
  if (text.empty()) return 0;
  if (IsNarrowSpace(text.back())) return 1;
  for (const std::string_view space : kWideSpaces) {
    if (text.size() >= space.size() &&
        text.substr(text.size() - space.size()) == space) {
      return space.size();
    }
  }
  return 0;
}

}  // namespace

std::string_view TrimWhiteSpace(std::string_view text) {
  while (const size_t bytes = SpaceAtBegin(text)) text.remove_prefix(bytes);
  while (const size_t bytes = SpaceAtEnd(text)) text.remove_suffix(bytes);
  return text;
}

}  // namespace sparseserve
