#include "client/credentials.h"

#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace sparseserve {
namespace {

// How often files are looked at.
constexpr unsigned kWatchSeconds = 10;

bool ReadText(const std::string& path, std::string& text) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream contents;
  if (!file || !(contents << file.rdbuf())) return false;
  text = contents.str();
  return true;
}

// Puts the file's token into each call. gRPC calls this on a thread of its own.
class TokenFile final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit TokenFile(std::string path) : path_(std::move(path)) {}

  grpc::Status GetMetadata(
      grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
      std::multimap<grpc::string, grpc::string>* metadata) override {
    std::string text;
    if (!ReadText(path_, text)) {
      return {grpc::StatusCode::UNAUTHENTICATED,
              absl::StrCat("cannot read the token in ", path_)};
    }
    metadata->emplace(
        "authorization",
        absl::StrCat("Bearer ", absl::StripAsciiWhitespace(text)));
    return grpc::Status::OK;
  }

 private:
  const std::string path_;
};

absl::Status CheckReadable(const char* flag, const std::string& path) {
  std::string text;
  if (path.empty()) return absl::OkStatus();
  if (ReadText(path, text) && !text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("flag --", flag, ": cannot read ", path));
}

absl::Status Check(const CredentialFiles& files) {
  if (files.ca.empty() && !(files.certificate.empty() && files.key.empty() &&
                            files.server_name.empty())) {
    return absl::InvalidArgumentError(
        "flag --tls_ca is missing: the CAs that servers' certificates come "
        "from");
  }
  if (files.ca.empty() && !files.token.empty()) {
    return absl::InvalidArgumentError(
        "flag --tls_ca is missing: without encryption others could read the "
        "token");
  }
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError(
        "flags --tls_certificate and --tls_key must be given together");
  }
  for (const auto& [flag, path] :
       {std::pair("tls_ca", &files.ca),
        std::pair("tls_certificate", &files.certificate),
        std::pair("tls_key", &files.key),
        std::pair("token_file", &files.token)}) {
    absl::Status status = CheckReadable(flag, *path);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const CredentialFiles& files) {
  if (absl::Status status = Check(files); !status.ok()) return status;
  if (files.ca.empty()) return std::shared_ptr<grpc::ChannelCredentials>();
  namespace tls = grpc::experimental;
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(
      std::make_shared<tls::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.ca, kWatchSeconds));
  options.watch_root_certs();
  if (!files.certificate.empty()) options.watch_identity_key_cert_pairs();
  std::shared_ptr<grpc::ChannelCredentials> channel =
      tls::TlsCredentials(options);
  if (files.token.empty()) return channel;
  return grpc::CompositeChannelCredentials(
      channel, grpc::MetadataCredentialsFromPlugin(
                   std::make_unique<TokenFile>(files.token)));
}

}  // namespace sparseserve
