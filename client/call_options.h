#pragma once

#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace sparseserve {

// How one call of Client runs. Plain data, may be reused for many calls.
struct CallOptions {
  // The call fails with DEADLINE_EXCEEDED after this time, retries included.
  // The server knows it and gives up what is not done by then. Infinite leaves
  // the limit to the server.
  absl::Duration timeout = absl::InfiniteDuration();

  // A stop requested on its source, by any thread and at any time, cancels the
  // call, which then returns CANCELLED. The server frees what the call held.
  std::stop_token stop;

  // Waits, within the timeout, for a server that can be reached and serves,
  // instead of failing with UNAVAILABLE.
  bool wait_for_ready = false;

  // Request headers such as {"traceparent", "00-…"}: keys of [a-z0-9_.-] that
  // do not start with "grpc-" or end in "-bin", values of printable ASCII.
  std::vector<std::pair<std::string, std::string>> metadata;
};

}  // namespace sparseserve
