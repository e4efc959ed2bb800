#pragma once

#include "absl/strings/string_view.h"

namespace sparseserve {

// Type URL under which a status carries the google.rpc.Status of its details.
inline constexpr absl::string_view kErrorDetailsPayload =
    "type.googleapis.com/google.rpc.Status";

}  // namespace sparseserve
