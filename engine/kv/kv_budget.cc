#include "engine/kv/kv_budget.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

constexpr int64_t kDefaultContexts = 16;
constexpr int64_t kMemoryShare = 4;
// Slots (page * kPageTokens + offset) stay far inside 64 bits, page ids inside
// 31.
constexpr int64_t kMaxPages = int64_t{1} << 30;

}  // namespace

absl::StatusOr<KvBudget> ChooseKvBudget(const KvBudget::Request& request) {
  SPARSESERVE_CHECK(request.page_bytes >= 1 && request.context_tokens >= 1);
  const int64_t context_pages =
      (int64_t{request.context_tokens} + kPageTokens - 1) / kPageTokens;
  const int64_t context_bytes = context_pages * request.page_bytes;
  const std::string need =
      absl::StrCat("one context of ", request.context_tokens, " tokens needs ",
                   context_bytes, " bytes");

  KvBudget budget;
  if (request.bytes != 0) {
    const int64_t pages =
        std::min(request.bytes / request.page_bytes, kMaxPages);
    if (pages < context_pages) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv_cache_bytes is ", request.bytes, ", but ", need));
    }
    budget.pages = static_cast<int32_t>(pages);
    budget.reason = "as asked for";
    return budget;
  }

  const int64_t wanted = kDefaultContexts * context_pages;
  const int64_t share =
      request.available_bytes / kMemoryShare / request.page_bytes;
  if (share < context_pages) {
    return absl::ResourceExhaustedError(absl::StrCat(
        need, ", more than a quarter of the ", request.available_bytes,
        " bytes available: set kv_cache_bytes to take them all the same"));
  }
  budget.pages = static_cast<int32_t>(std::min(wanted, share));
  budget.reason = wanted <= share ? "room for 16 contexts"
                                  : "a quarter of the memory available";
  return budget;
}

}  // namespace sparseserve
