#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sparseserve {

// The body of GET http://HOST:PORT/metrics; `address` is "host:port", of IPv6
// "[host]:port". INVALID_ARGUMENT for another form; UNAVAILABLE, naming the
// address and the cause, if nobody answers in `timeout` or not with metrics.
absl::StatusOr<std::string> ScrapeMetrics(absl::string_view address,
                                          absl::Duration timeout);

}  // namespace sparseserve
