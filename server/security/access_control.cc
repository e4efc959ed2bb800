#include "server/security/access_control.h"

#include <utility>
#include <vector>

#include "absl/strings/match.h"

namespace sparseserve {
namespace {

// What follows "Bearer "; nothing if it is of another scheme.
std::optional<std::string_view> BearerTokenOf(std::string_view value) {
  constexpr std::string_view kScheme = "bearer ";
  const std::string_view scheme = value.substr(0, kScheme.size());
  if (!absl::EqualsIgnoreCase(
          absl::string_view(scheme.data(), scheme.size()),
          absl::string_view(kScheme.data(), kScheme.size()))) {
    return std::nullopt;
  }
  value.remove_prefix(kScheme.size());
  const size_t begin = value.find_first_not_of(' ');
  return begin == value.npos ? std::string_view() : value.substr(begin);
}

}  // namespace

void AccessControl::SetPolicy(AccessPolicy policy) {
  auto fresh = std::make_shared<const AccessPolicy>(std::move(policy));
  MutexLock lock(mu_);
  policy_.swap(fresh);
}

void AccessControl::SetTokens(StaticTokens tokens) {
  auto fresh = std::make_shared<const StaticTokens>(std::move(tokens));
  MutexLock lock(mu_);
  tokens_.swap(fresh);
}

void AccessControl::SetJwt(JwtVerifier verifier) {
  auto fresh = std::make_shared<const JwtVerifier>(std::move(verifier));
  MutexLock lock(mu_);
  jwt_.swap(fresh);
}

AccessControl::Decision AccessControl::Judge(const Call& call,
                                             absl::Time now) const {
  std::vector<Identity> identities;
  if (!call.authorization.empty()) {
    Subject subject = SubjectOf(call.authorization, now);
    if (subject.failure.has_value()) return {subject.failure, "", nullptr};
    if (!subject.identity.value.empty()) {
      identities = {std::move(subject.identity)};
    }
  }
  if (identities.empty()) identities = call.certificate.identities();
  std::shared_ptr<const AccessPolicy> policy;
  {
    MutexLock lock(mu_);
    policy = policy_;
  }
  Decision decision;
  if (identities.empty()) {
    if (needs_credential_ || policy != nullptr) {
      decision.failure = AuthFailure::kNoCredential;
    }
    return decision;
  }
  decision.caller = identities.front().ToString();
  if (policy == nullptr) return decision;
  for (const Identity& identity : identities) {
    decision.rule = policy->Find(identity);
    if (decision.rule != nullptr) break;
  }
  if (decision.rule == nullptr) {
    decision.failure = AuthFailure::kUnknownCaller;
    return decision;
  }
  decision.caller = decision.rule->name;
  if (!decision.rule->AllowsMethod(call.method)) {
    decision.failure = AuthFailure::kMethodNotAllowed;
  }
  return decision;
}

AccessControl::Subject AccessControl::SubjectOf(std::string_view authorization,
                                                absl::Time now) const {
  std::shared_ptr<const StaticTokens> tokens;
  std::shared_ptr<const JwtVerifier> jwt;
  {
    MutexLock lock(mu_);
    tokens = tokens_;
    jwt = jwt_;
  }
  // Whoever looks at no tokens cannot say that one is bad.
  if (tokens == nullptr && jwt == nullptr) return {};
  const std::optional<std::string_view> token = BearerTokenOf(authorization);
  if (!token.has_value()) return {AuthFailure::kMalformedToken, {}};
  if (tokens != nullptr) {
    std::optional<std::string> subject = tokens->SubjectOf(*token);
    if (subject.has_value()) {
      return {std::nullopt,
              {Identity::Kind::kTokenSubject, *std::move(subject)}};
    }
  }
  if (jwt == nullptr) return {AuthFailure::kUnknownToken, {}};
  JwtVerifier::Result result = jwt->Verify(*token, now);
  if (result.failure.has_value()) return {result.failure, {}};
  return {std::nullopt,
          {Identity::Kind::kTokenSubject, std::move(result.subject)}};
}

}  // namespace sparseserve
