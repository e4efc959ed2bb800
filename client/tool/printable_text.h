#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sparseserve {

// `text` with U+FFFD for every byte that is not part of valid UTF-8.
std::string WithValidUtf8(absl::string_view text);

// Likewise, and with U+FFFD for control characters other than tab and line
// feed: what a server sends must not steer the terminal that shows it.
std::string WithoutControls(absl::string_view text);

// Whether `text` is valid UTF-8.
bool IsValidUtf8(absl::string_view text);

}  // namespace sparseserve
