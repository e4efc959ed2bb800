#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sparseserve {

// The text that a command works on: its one argument, else the content of
// `file`, else standard input, which "-" also names. INVALID_ARGUMENT if there
// is more than one source, none (standard input is a keyboard and was not
// named), or the text is larger than 64 MiB or not UTF-8; NOT_FOUND if the file
// cannot be read.
absl::StatusOr<std::string> ReadPrompt(
    const std::vector<std::string>& arguments, absl::string_view file);

}  // namespace sparseserve
