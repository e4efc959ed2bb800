#pragma once

#include <string>
#include <string_view>

namespace sparseserve {

// `text` in Unicode's Normalization Form C, in linear time but for the sorting
// of runs of combining marks. Characters have the properties of the Unicode
// version of the utf8proc library in use. REQUIRES: `text` is valid UTF-8.
std::string NormalizeNfc(std::string_view text);

}  // namespace sparseserve
