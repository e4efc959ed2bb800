#include "server/security/identity.h"

#include "engine/base/check.h"
#include "engine/base/str_cat.h"

namespace sparseserve {

std::string Identity::ToString() const {
  switch (kind) {
    case Kind::kSpiffeId:
      return value;
    case Kind::kDnsName:
      return StrCat("dns:", value);
    case Kind::kCommonName:
      return StrCat("cn:", value);
    case Kind::kTokenSubject:
      return StrCat("token:", value);
  }
  SPARSESERVE_CHECK(false && "unknown kind");
}

std::vector<Identity> PeerCertificate::identities() const {
  std::vector<Identity> all;
  if (!spiffe_id.empty()) all.push_back({Identity::Kind::kSpiffeId, spiffe_id});
  for (const std::string& name : dns_names) {
    all.push_back({Identity::Kind::kDnsName, name});
  }
  if (!common_name.empty()) {
    all.push_back({Identity::Kind::kCommonName, common_name});
  }
  return all;
}

}  // namespace sparseserve
