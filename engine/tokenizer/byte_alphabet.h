#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sparseserve {

// Byte-level vocabularies write each byte as one printable character: itself
// where Latin-1 has a visible one, else the next free one from U+0100 on (so a
// space is "Ġ", U+0120). The rule is GPT-2's.

// The character that stands for `byte`, in UTF-8.
std::string ByteToAlphabet(uint8_t byte);

// The bytes that `text` stands for; none if a character of it stands for no
// byte.
std::optional<std::string> AlphabetToBytes(std::string_view text);

}  // namespace sparseserve
