#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sparseserve {

// How much KV memory an engine takes.
struct KvBudget {
  struct Request {
    int64_t bytes = 0;  // asked for; 0 leaves the choice to us
    int64_t page_bytes = 0;
    int32_t context_tokens = 0;
    int64_t available_bytes = 0;  // memory that the device has left
    // Left to us: for so many contexts at most, and that share of the memory.
    int32_t contexts = 16;
    double share = 0.25;
  };

  int32_t pages = 0;
  std::string reason;  // for the start-up log
};

// As many pages as the bytes asked for hold; or, left to us, room for some
// contexts but at most a share of the memory available. INVALID_ARGUMENT
// (RESOURCE_EXHAUSTED if left to us) says how many bytes one context needs if
// that would not fit.
absl::StatusOr<KvBudget> ChooseKvBudget(const KvBudget::Request& request);

}  // namespace sparseserve
