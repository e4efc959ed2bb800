#include "server/scheduling/caller_quotas.h"

#include "engine/base/check.h"

namespace sparseserve {

bool CallerQuotas::IsLimited(const std::string& caller, const Limits& limits) {
  return !caller.empty() && (limits.max_requests > 0 || limits.max_tokens > 0);
}

CallerQuotas::Use CallerQuotas::With(const std::string& caller,
                                     int64_t tokens) const {
  const auto found = uses_.find(caller);
  Use use = found == uses_.end() ? Use() : found->second;
  ++use.requests;
  use.tokens += tokens;
  return use;
}

bool CallerQuotas::IsWithin(const Use& use, const Limits& limits) {
  return (limits.max_requests == 0 || use.requests <= limits.max_requests) &&
         (limits.max_tokens == 0 || use.tokens <= limits.max_tokens);
}

bool CallerQuotas::Allows(const std::string& caller, int64_t tokens,
                          const std::optional<Limits>& own) const {
  const Limits& limits = own.has_value() ? *own : limits_;
  return !IsLimited(caller, limits) || IsWithin(With(caller, tokens), limits);
}

bool CallerQuotas::Take(const std::string& caller, int64_t tokens,
                        const std::optional<Limits>& own) {
  const Limits& limits = own.has_value() ? *own : limits_;
  if (!IsLimited(caller, limits)) return true;
  const Use use = With(caller, tokens);
  if (!IsWithin(use, limits)) return false;
  uses_[caller] = use;
  return true;
}

void CallerQuotas::GiveBack(const std::string& caller, int64_t tokens,
                            const std::optional<Limits>& own) {
  if (!IsLimited(caller, own.has_value() ? *own : limits_)) return;
  const auto found = uses_.find(caller);
  SPARSESERVE_CHECK(found != uses_.end());
  --found->second.requests;
  found->second.tokens -= tokens;
  SPARSESERVE_CHECK(found->second.requests >= 0 && found->second.tokens >= 0);
  if (found->second.requests == 0) uses_.erase(found);
}

}  // namespace sparseserve
