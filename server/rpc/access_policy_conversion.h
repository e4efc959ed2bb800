#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/security/access_policy.h"

namespace sparseserve {

// `text` is a sparseserve.v1.AccessPolicy in text format; `name` names it in
// errors. INVALID_ARGUMENT says what is wrong: line and column, or each field
// that is missing or out of its range.
absl::StatusOr<AccessPolicy> ParseAccessPolicy(const std::string& text,
                                               const std::string& name);

}  // namespace sparseserve
