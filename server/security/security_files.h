#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/security/access_control.h"
#include "server/security/jwt_verifier.h"
#include "server/security/published_file.h"
#include "server/security/watched_files.h"

namespace sparseserve {

// Where the operator keeps what the server's security needs. Paths; empty for
// none.
struct SecurityOptions {
  // Both or neither.
  std::string tls_certificate;
  std::string tls_key;
  // With it clients must have a certificate that one of these signed.
  std::string tls_client_ca;
  std::string access_policy;
  std::string token_file;
  struct Jwt {
    JwtVerifier::Options verifier;
    std::string key_file;
  };
  std::optional<Jwt> jwt;
  absl::Duration reload_interval = absl::Seconds(10);
  bool reflection = true;

  bool has_tls() const { return !tls_certificate.empty(); }
  bool has_tokens() const { return !token_file.empty() || jwt.has_value(); }
};

// What those files say, checked, and taken over anew when they are replaced:
// contents that are no good are told, counted, and change nothing. Owns the
// thread that looks.
class SecurityFiles {
 public:
  struct Dependencies {
    AccessControl& access;  // outlives this, as does `metrics`
    Metrics& metrics;
    // Of text, whose errors it names by `name`.
    std::function<absl::StatusOr<AccessPolicy>(const std::string& text,
                                               const std::string& name)>
        parse_policy;
    // Takes a line for the operator.
    std::function<void(const std::string&)> notice;
  };
  // INVALID_ARGUMENT or NOT_FOUND names the file.
  static absl::StatusOr<std::unique_ptr<SecurityFiles>> Load(
      const SecurityOptions& options, Dependencies dependencies);

  // What gRPC watches; empty without TLS, the latter without client CA.
  std::string identity_path() const { return identity_.path(); }
  std::string client_ca_path() const { return client_ca_.path(); }

  // Takes over what changed, now.
  void Look() { files_->Look(); }

 private:
  explicit SecurityFiles(Dependencies dependencies)
      : d_(std::move(dependencies)) {}
  WatchedFiles::Set TlsSet(const SecurityOptions& options);
  WatchedFiles::Set AccessSet(
      SecurityFile file, const std::string& path,
      std::function<absl::Status(const std::string&)> load);
  void Tell(const absl::Status& status, const std::string& what);

  const Dependencies d_;
  PublishedFile identity_, client_ca_;
  // Last: its thread uses the others.
  std::unique_ptr<WatchedFiles> files_;
};

}  // namespace sparseserve
