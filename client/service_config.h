#pragma once

#include "absl/strings/string_view.h"

namespace sparseserve {

// The gRPC service config that callers of every language should use, as
// published in service_config.json: spreads calls over replicas, leaves
// replicas that report NOT_SERVING, and retries calls that were refused with
// UNAVAILABLE before their first reply.
absl::string_view DefaultServiceConfig();

}  // namespace sparseserve
