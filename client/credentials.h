#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/security/credentials.h"

namespace sparseserve {

// Files with what a client and a server prove to each other. Empty for none.
struct CredentialFiles {
  std::string ca;           // PEM: CAs of servers; encrypts the connection
  std::string certificate;  // PEM: the client's own and its chain
  std::string key;          // PEM: of the certificate
  std::string token;        // a bearer token
  std::string server_name;  // see Client::Options::tls_server_name
};

// Credentials for Client::Options; null, which is plaintext, if no file is
// named. Certificates and keys that are replaced are used by connections that
// open from then on; the token is read for each call. INVALID_ARGUMENT names
// the flag that is missing or whose file cannot be read.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const CredentialFiles& files);

}  // namespace sparseserve
