#include "server/console/console_page.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sparseserve {

std::string ConsolePage(absl::string_view nonce) {
  return absl::StrReplaceAll(ConsolePageTemplate(), {{"{nonce}", nonce}});
}

std::string ConsolePagePolicy(absl::string_view nonce) {
  return absl::StrCat("default-src 'none'; script-src 'nonce-", nonce,
                      "'; style-src 'nonce-", nonce,
                      "'; img-src data:; connect-src 'self'; base-uri 'none'; "
                      "form-action 'none'; frame-ancestors 'none'; "
                      "require-trusted-types-for 'script'");
}

}  // namespace sparseserve
