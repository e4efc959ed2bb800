#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace sparseserve {

// How a text begins, as UTF-8.
struct Utf8Prefix {
  enum class Kind {
    kCharacter,  // one whole character
    kTruncated,  // all of the text is the beginning of a character
    kInvalid,    // bytes that begin no character
  };
  Kind kind;
  // Length of the character, or of the maximal part of one (Unicode 15,
  // section 3.9, U+FFFD substitution of maximal subparts); at least 1.
  size_t bytes;
};

// REQUIRES: !text.empty().
Utf8Prefix ReadUtf8Prefix(std::string_view text);

// Offset of the first byte that is not part of a whole character; none if
// `text` is valid UTF-8.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

}  // namespace sparseserve
