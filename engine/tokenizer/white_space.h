#pragma once

#include <string_view>

namespace sparseserve {

// `text` without the white space at both ends, as the templates' `trim` takes
// it: Python's notion, which is Unicode's White_Space and U+001C to U+001F.
// REQUIRES: `text` is valid UTF-8.
std::string_view TrimWhiteSpace(std::string_view text);

}  // namespace sparseserve
