#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/metrics/auth_failure.h"

namespace sparseserve {

// Verifies JSON Web Tokens (RFC 7519) that were signed (RFC 7515) with the one
// algorithm that the server is told to take. Immutable.
class JwtVerifier {
 public:
  // Bytes of a token, of its decoded header and claims.
  static constexpr size_t kMostTokenBytes = 8 << 10;
  static constexpr size_t kMostHeaderBytes = 1 << 10;
  static constexpr size_t kMostSubjectBytes = 256;
  static constexpr int kMostKeys = 16;

  enum class Algorithm { kRs256, kEs256 };
  struct Options {
    Algorithm algorithm = Algorithm::kRs256;
    std::string audience;  // one of the token's; not empty
    std::string issuer;    // empty: any
    // That clocks may differ by.
    absl::Duration leeway = absl::Seconds(30);
  };
  // `keys` are public keys in PEM ("BEGIN PUBLIC KEY"), of which one must have
  // signed: several while they are rotated. INVALID_ARGUMENT names a key that
  // does not suit the algorithm: RSA has 2,048 bits or more, EC is P-256.
  static absl::StatusOr<JwtVerifier> Create(Options options,
                                            const std::string& keys);
  ~JwtVerifier();
  JwtVerifier(JwtVerifier&&) noexcept;

  // The token's subject, or why it does not count at `now`. A token without
  // `exp`, `aud` or `sub` does not.
  struct Result {
    std::string subject;
    std::optional<AuthFailure> failure;
  };
  Result Verify(std::string_view token, absl::Time now) const;

 private:
  struct Key;
  JwtVerifier(Options options, std::vector<Key> keys);
  bool IsSigned(std::string_view text, const std::string& signature) const;

  Options options_;
  std::vector<Key> keys_;
};

}  // namespace sparseserve
