#pragma once

#include <string>
#include <vector>

namespace sparseserve {

// Who a caller was proven to be. Kinds never stand for each other: a token's
// subject that spells a SPIFFE id is not that workload.
struct Identity {
  enum class Kind { kSpiffeId, kDnsName, kCommonName, kTokenSubject };
  Kind kind = Kind::kTokenSubject;
  std::string value;

  // One name for both: "spiffe://a/b", "dns:a.example", "cn:a", "token:a".
  std::string ToString() const;

  friend bool operator==(const Identity&, const Identity&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Identity& identity) {
    return H::combine(std::move(state), static_cast<int>(identity.kind),
                      identity.value);
  }
};

// What the client's certificate says, whose chain TLS has verified. All empty
// without a certificate.
struct PeerCertificate {
  std::string spiffe_id;  // the URI SAN that is a SPIFFE id
  std::vector<std::string> dns_names;
  std::string common_name;

  // Of all that it says, what names a caller best first.
  std::vector<Identity> identities() const;
};

}  // namespace sparseserve
