#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "server/metrics/auth_failure.h"
#include "server/security/access_policy.h"
#include "server/security/identity.h"
#include "server/security/jwt_verifier.h"
#include "server/security/static_tokens.h"

namespace sparseserve {

// Says who calls, and whether they may. Policy, tokens and keys can be replaced
// while calls are judged. Thread-safe.
class AccessControl {
 public:
  // With a policy, only callers that it names may call, and only what it says.
  // Without one, every caller who proves an identity may, and if
  // `needs_credential`, nobody else.
  explicit AccessControl(bool needs_credential)
      : needs_credential_(needs_credential) {}

  void SetPolicy(AccessPolicy policy);
  void SetTokens(StaticTokens tokens);
  void SetJwt(JwtVerifier verifier);

  struct Call {
    const PeerCertificate& certificate;
    std::string_view authorization;  // the metadata's value; empty for none
    std::string_view method;         // "package.Service/Method"
  };
  struct Decision {
    std::optional<AuthFailure> failure;
    // Who it is, as the rule names it or Identity::ToString(); empty: unknown.
    std::string caller;
    std::shared_ptr<const CallerRule> rule;  // null without a policy
  };
  // A call that carries a token is that of the token's subject, and fails with
  // it; else of whom the certificate names, by the first of its identities that
  // the policy knows.
  Decision Judge(const Call& call, absl::Time now) const;

 private:
  struct Subject {
    std::optional<AuthFailure> failure;
    Identity identity;
  };
  Subject SubjectOf(std::string_view authorization, absl::Time now) const;

  const bool needs_credential_;
  mutable Mutex mu_;
  std::shared_ptr<const AccessPolicy> policy_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const StaticTokens> tokens_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const JwtVerifier> jwt_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sparseserve
