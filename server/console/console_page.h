#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sparseserve {

// The page at `/`, made of console_page.html, which loads nothing but
// /console.json. `nonce` marks its script and its style as its own: of a
// content security policy with the same nonce nothing else may run.
std::string ConsolePage(absl::string_view nonce);
std::string ConsolePagePolicy(absl::string_view nonce);

// As it stands in the file.
absl::string_view ConsolePageTemplate();

}  // namespace sparseserve
