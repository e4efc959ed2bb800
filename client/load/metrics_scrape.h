#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sparseserve {

// The body of GET http://HOST:PORT/PATH; `address` is "host:port", of IPv6
// "[host]:port". INVALID_ARGUMENT for another form; FAILED_PRECONDITION, naming
// the address and the cause, if nobody answers in `timeout` or not with 200.
absl::StatusOr<std::string> FetchFromMetricsPort(absl::string_view address,
                                                 absl::string_view path,
                                                 absl::Duration timeout);

// Likewise, of /metrics.
absl::StatusOr<std::string> ScrapeMetrics(absl::string_view address,
                                          absl::Duration timeout);

}  // namespace sparseserve
