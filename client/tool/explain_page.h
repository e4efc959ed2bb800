#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// An explanation as one HTML page that needs nothing else: no other file, no
// network. What comes from the server is data in it, never markup.
std::string ExplainPage(const v1::ExplainAttentionResponse& explanation);

// explain_page.html, which has kExplainPageSlot where the data goes.
absl::string_view ExplainPageTemplate();
inline constexpr absl::string_view kExplainPageSlot = "<!-- explanation -->";

}  // namespace sparseserve
