#include "server/rpc/security_settings.h"

#include <string>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

void SettleTime(const std::string& field, bool present,
                const google::protobuf::Duration& value, absl::Duration least,
                absl::Duration most, FieldErrors& errors,
                absl::Duration& setting) {
  if (!present) return;
  setting = absl::Seconds(value.seconds()) + absl::Nanoseconds(value.nanos());
  if (setting >= least && setting <= most) return;
  errors.Add(field, absl::FormatDuration(setting),
             StrCat("from ", absl::FormatDuration(least), " to ",
                    absl::FormatDuration(most)));
}

void SettleJwt(const v1::JwtConfig& config, FieldErrors& errors,
               SecurityOptions& security) {
  SecurityOptions::Jwt jwt;
  switch (config.algorithm()) {
    case v1::JwtConfig::RS256:
      jwt.verifier.algorithm = JwtVerifier::Algorithm::kRs256;
      break;
    case v1::JwtConfig::ES256:
      jwt.verifier.algorithm = JwtVerifier::Algorithm::kEs256;
      break;
    default:
      errors.Add("security.jwt.algorithm", "", "RS256 or ES256");
  }
  if (config.key_file().empty()) {
    errors.Add("security.jwt.key_file", "", "given");
  }
  if (config.audience().empty()) {
    errors.Add("security.jwt.audience", "", "given");
  }
  jwt.key_file = config.key_file();
  jwt.verifier.audience = config.audience();
  jwt.verifier.issuer = config.issuer();
  SettleTime("security.jwt.leeway", config.has_leeway(), config.leeway(),
             absl::ZeroDuration(), absl::Minutes(5), errors,
             jwt.verifier.leeway);
  security.jwt = std::move(jwt);
}

}  // namespace

void SettleSecurity(const v1::SecurityConfig& config, const SettingFlags& flags,
                    FieldErrors& errors, SecurityOptions& security) {
  security.tls_certificate =
      flags.tls_certificate.value_or(config.tls_certificate());
  security.tls_key = flags.tls_key.value_or(config.tls_key());
  security.tls_client_ca = flags.tls_client_ca.value_or(config.tls_client_ca());
  if (security.has_tls() && security.tls_key.empty()) {
    errors.Add("--tls_key", "", "given where --tls_certificate is");
  }
  if (!security.has_tls() && !security.tls_key.empty()) {
    errors.Add("--tls_certificate", "", "given where --tls_key is");
  }
  if (!security.has_tls() && !security.tls_client_ca.empty()) {
    errors.Add("--tls_certificate", "", "given where --tls_client_ca is");
  }
  security.access_policy = config.access_policy();
  security.token_file = config.token_file();
  if (config.has_jwt()) SettleJwt(config.jwt(), errors, security);
  SettleTime("security.reload_interval", config.has_reload_interval(),
             config.reload_interval(), absl::Seconds(1), absl::Hours(1), errors,
             security.reload_interval);
  security.reflection =
      config.has_reflection()
          ? config.reflection()
          : !security.has_tls() && security.access_policy.empty() &&
                security.token_file.empty() && !config.has_jwt();
}

}  // namespace sparseserve
