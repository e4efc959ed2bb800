#pragma once

namespace sparseserve {

// Why a call was refused before anyone looked at its request. What TLS refuses
// in the handshake never becomes a call.
enum class AuthFailure {
  kNoCredential,
  kMalformedToken,
  kUnknownToken,
  kBadSignature,
  kWrongClaims,  // audience, issuer, subject, or one that is missing
  kExpiredToken,
  kTokenNotYetValid,
  kUnknownCaller,
  kMethodNotAllowed,
  kModelNotAllowed,
};
inline constexpr int kAuthFailures = 10;

// Files whose replacement is taken over while the server runs.
enum class SecurityFile { kAccessPolicy, kTokens, kJwtKeys };
inline constexpr int kSecurityFiles = 3;

}  // namespace sparseserve
