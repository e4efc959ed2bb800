#include "server/scheduling/caller_quotas.h"

#include "engine/base/check.h"

namespace sparseserve {

bool CallerQuotas::IsLimited(const std::string& caller) const {
  return !caller.empty() &&
         (limits_.max_requests > 0 || limits_.max_tokens > 0);
}

CallerQuotas::Use CallerQuotas::With(const std::string& caller,
                                     int64_t tokens) const {
  const auto found = uses_.find(caller);
  Use use = found == uses_.end() ? Use() : found->second;
  ++use.requests;
  use.tokens += tokens;
  return use;
}

bool CallerQuotas::IsWithin(const Use& use) const {
  return (limits_.max_requests == 0 || use.requests <= limits_.max_requests) &&
         (limits_.max_tokens == 0 || use.tokens <= limits_.max_tokens);
}

bool CallerQuotas::Allows(const std::string& caller, int64_t tokens) const {
  return !IsLimited(caller) || IsWithin(With(caller, tokens));
}

bool CallerQuotas::Take(const std::string& caller, int64_t tokens) {
  if (!IsLimited(caller)) return true;
  const Use use = With(caller, tokens);
  if (!IsWithin(use)) return false;
  uses_[caller] = use;
  return true;
}

void CallerQuotas::GiveBack(const std::string& caller, int64_t tokens) {
  if (!IsLimited(caller)) return;
  const auto found = uses_.find(caller);
  SPARSESERVE_CHECK(found != uses_.end());
  --found->second.requests;
  found->second.tokens -= tokens;
  SPARSESERVE_CHECK(found->second.requests >= 0 && found->second.tokens >= 0);
  if (found->second.requests == 0) uses_.erase(found);
}

}  // namespace sparseserve
