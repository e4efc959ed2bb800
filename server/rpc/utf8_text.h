#pragma once

#include <string>
#include <string_view>

namespace sparseserve {

// Whether `text` is UTF-8 as Unicode defines it: shortest forms only, no
// surrogates, nothing above U+10FFFF.
bool IsUtf8(std::string_view text);

// `bytes` with U+FFFD in place of every byte sequence that is not UTF-8, one
// per maximal part of a character, as Unicode recommends.
std::string ToUtf8(std::string_view bytes);

}  // namespace sparseserve
