#include "server/security/security_files.h"

#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/security/tls_material.h"

namespace sparseserve {

absl::StatusOr<std::unique_ptr<SecurityFiles>> SecurityFiles::Load(
    const SecurityOptions& options, Dependencies dependencies) {
  auto files = absl::WrapUnique(new SecurityFiles(std::move(dependencies)));
  AccessControl& access = files->d_.access;
  std::vector<WatchedFiles::Set> sets;
  if (options.has_tls()) sets.push_back(files->TlsSet(options));
  if (!options.access_policy.empty()) {
    const std::string path = options.access_policy;
    sets.push_back(files->AccessSet(
        SecurityFile::kAccessPolicy, path,
        [&access, path,
         parse = files->d_.parse_policy](const std::string& text) {
          ASSIGN_OR_RETURN(AccessPolicy policy, parse(text, path));
          access.SetPolicy(std::move(policy));
          return absl::OkStatus();
        }));
  }
  if (!options.token_file.empty()) {
    sets.push_back(files->AccessSet(
        SecurityFile::kTokens, options.token_file,
        [&access](const std::string& text) {
          ASSIGN_OR_RETURN(StaticTokens tokens, StaticTokens::Parse(text));
          access.SetTokens(std::move(tokens));
          return absl::OkStatus();
        }));
  }
  if (options.jwt.has_value()) {
    sets.push_back(files->AccessSet(
        SecurityFile::kJwtKeys, options.jwt->key_file,
        [&access, verifying = options.jwt->verifier](const std::string& text) {
          ASSIGN_OR_RETURN(JwtVerifier verifier,
                           JwtVerifier::Create(verifying, text));
          access.SetJwt(std::move(verifier));
          return absl::OkStatus();
        }));
  }
  ASSIGN_OR_RETURN(files->files_, WatchedFiles::Start(std::move(sets),
                                                      options.reload_interval));
  return files;
}

WatchedFiles::Set SecurityFiles::TlsSet(const SecurityOptions& options) {
  WatchedFiles::Set set;
  set.paths = {options.tls_certificate, options.tls_key};
  if (!options.tls_client_ca.empty()) {
    set.paths.push_back(options.tls_client_ca);
  }
  set.load = [this](const std::vector<std::string>& contents) -> absl::Status {
    const bool has_ca = contents.size() > 2;
    if (has_ca && contents[2].empty()) {
      return absl::InvalidArgumentError("the client CA is empty");
    }
    ASSIGN_OR_RETURN(
        const TlsMaterial material,
        CheckTlsMaterial(contents[0], contents[1], has_ca ? contents[2] : ""));
    if (has_ca) RETURN_IF_ERROR(client_ca_.Publish(material.client_ca));
    RETURN_IF_ERROR(identity_.Publish(material.identity));
    d_.metrics.SetCertificateExpiry(material.expiry);
    return absl::OkStatus();
  };
  set.on_reload = [this](const absl::Status& status) {
    d_.metrics.CertificateReloaded(status.ok());
    Tell(status, "TLS certificate");
  };
  return set;
}

WatchedFiles::Set SecurityFiles::AccessSet(
    SecurityFile file, const std::string& path,
    std::function<absl::Status(const std::string&)> load) {
  WatchedFiles::Set set;
  set.paths = {path};
  set.load = [load = std::move(load)](const std::vector<std::string>& text) {
    return load(text.front());
  };
  set.on_reload = [this, file, path](const absl::Status& status) {
    d_.metrics.SecurityFileReloaded(file, status.ok());
    Tell(status, path);
  };
  return set;
}

void SecurityFiles::Tell(const absl::Status& status, const std::string& what) {
  d_.notice(status.ok() ? StrCat(what, ": took over the new contents")
                        : StrCat(what, ": kept the contents it had, for ",
                                 std::string(status.message())));
}

}  // namespace sparseserve
