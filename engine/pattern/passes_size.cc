#include "engine/pattern/passes_size.h"

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

absl::Status AtMost(std::string_view pattern, std::string_view what,
                    int64_t number, int64_t most) {
  if (number <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(pattern, ": ", number, " ", what, "; allowed: ", most));
}

}  // namespace

absl::Status CheckPassesSize(std::string_view pattern, const PassesSize& size) {
  RETURN_IF_ERROR(AtMost(pattern, "slots of queries, over all heads",
                         size.slots, kMaxPassesSize.slots));
  RETURN_IF_ERROR(AtMost(pattern, "blocks to list, over all tiles", size.blocks,
                         kMaxPassesSize.blocks));
  return AtMost(pattern, "blocks of biases, over all heads", size.bias_tiles,
                kMaxPassesSize.bias_tiles);
}

}  // namespace sparseserve
