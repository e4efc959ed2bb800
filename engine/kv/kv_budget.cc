#include "engine/kv/kv_budget.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

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

  const std::string part =
      absl::StrCat(std::lround(request.share * 100), " % of the ");
  const int64_t wanted = request.contexts * context_pages;
  const int64_t share = static_cast<int64_t>(
      static_cast<double>(request.available_bytes) * request.share /
      static_cast<double>(request.page_bytes));
  if (share < context_pages) {
    return absl::ResourceExhaustedError(absl::StrCat(
        need, ", more than ", part, request.available_bytes,
        " bytes available: set kv_cache_bytes to take them all the same"));
  }
  budget.pages =
      static_cast<int32_t>(std::min(std::min(wanted, share), kMaxPages));
  budget.reason = wanted <= share
                      ? absl::StrCat("room for ", request.contexts, " contexts")
                      : absl::StrCat(part, "memory available");
  return budget;
}

}  // namespace sparseserve
