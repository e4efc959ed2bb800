#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sparseserve {

// What TLS serves with, found to fit together.
struct TlsMaterial {
  std::string identity;   // PEM: the key, then its certificate and chain
  std::string client_ca;  // PEM; empty if clients need no certificate
  absl::Time expiry;      // of the certificate
};

// INVALID_ARGUMENT says which file (`certificate`, `key` or `client CA`) has
// nothing readable in it, or that the key is not the certificate's. Contents
// are PEM; of the key nothing is repeated. An empty `client_ca` is none.
absl::StatusOr<TlsMaterial> CheckTlsMaterial(const std::string& certificate,
                                             const std::string& key,
                                             const std::string& client_ca);

}  // namespace sparseserve
