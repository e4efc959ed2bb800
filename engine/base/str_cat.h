#pragma once

// The distribution's Abseil has a string_view of its own, which std's does not
// convert to.

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sparseserve {
namespace internal {

inline absl::string_view CatPiece(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}
inline absl::string_view CatPiece(const std::string& text) { return text; }
inline absl::string_view CatPiece(const char* text) { return text; }
template <typename T>
const T& CatPiece(const T& value) {
  return value;
}

}  // namespace internal

// absl::StrCat that takes std::string_view too.
template <typename... Pieces>
std::string StrCat(const Pieces&... pieces) {
  return absl::StrCat(internal::CatPiece(pieces)...);
}

}  // namespace sparseserve
