#pragma once

#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "engine/base/str_cat.h"

namespace sparseserve {

// Text from outside, made fit for a message: in quotes, escaped to printable
// ASCII, and cut if it is long.
inline std::string Quoted(std::string_view text) {
  constexpr size_t kShown = 80;
  return StrCat("\"",
                absl::CHexEscape(internal::CatPiece(text.substr(0, kShown))),
                text.size() > kShown ? "...\"" : "\"");
}

}  // namespace sparseserve
