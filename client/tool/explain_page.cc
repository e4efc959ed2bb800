#include "client/tool/explain_page.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/tool/json_line.h"

namespace sparseserve {

std::string ExplainPage(const v1::ExplainAttentionResponse& explanation) {
  const absl::string_view page = ExplainPageTemplate();
  const size_t slot = page.find(kExplainPageSlot);
  // JSON has these characters in strings alone, where an escape means the same:
  // no text can end the script element that holds it.
  const std::string data = absl::StrReplaceAll(
      JsonLine(explanation),
      {{"<", "\\u003c"}, {">", "\\u003e"}, {"&", "\\u0026"}});
  return absl::StrCat(page.substr(0, slot), data,
                      page.substr(slot + kExplainPageSlot.size()));
}

}  // namespace sparseserve
