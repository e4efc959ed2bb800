#include "server/security/tls_material.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/test_certificates.h"

namespace sparseserve {
namespace {

using ::testing::AllOf;
using testing::CertificateAuthority;
using testing::CertificatePair;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(TlsMaterialTest, KeyAndChainBecomeOneIdentity) {
  const CertificateAuthority authority("authority");
  const absl::Time end = absl::FromUnixSeconds(2'000'000'000);
  const CertificatePair pair =
      authority.Issue({.common_name = "server", .end = end});
  const auto material =
      CheckTlsMaterial(pair.certificate + authority.certificate(), pair.key,
                       authority.certificate());
  ASSERT_TRUE(material.ok()) << material.status();
  EXPECT_THAT(material->identity,
              AllOf(HasSubstr(pair.key), HasSubstr(pair.certificate),
                    HasSubstr(authority.certificate())));
  EXPECT_EQ(material->client_ca, authority.certificate());
  EXPECT_EQ(material->expiry, end);
}

TEST(TlsMaterialTest, RefusesWhatDoesNotFitTogether) {
  const CertificateAuthority authority("authority");
  const CertificatePair pair = authority.Issue({.common_name = "server"});
  const CertificatePair other = authority.Issue({.common_name = "other"});
  struct Case {
    std::string certificate, key, client_ca, error;
  };
  const std::string cut =
      pair.certificate.substr(0, pair.certificate.size() / 2);
  for (const Case& c : {
           Case{"", pair.key, "", "the certificate is not readable"},
           Case{cut, pair.key, "", "the certificate is not readable"},
           Case{pair.certificate + cut, pair.key, "", "the certificate"},
           Case{pair.certificate, "", "", "the key is not readable"},
           Case{pair.certificate, pair.key.substr(0, 60), "",
                "the key is not readable"},
           Case{pair.certificate, other.key, "",
                "the key is not the certificate's"},
           Case{pair.certificate, pair.key, "none", "the client CA"},
           Case{pair.certificate, pair.key, pair.certificate + cut,
                "the client CA"},
       }) {
    const auto material = CheckTlsMaterial(c.certificate, c.key, c.client_ca);
    ASSERT_FALSE(material.ok()) << c.error;
    EXPECT_THAT(std::string(material.status().message()),
                AllOf(HasSubstr(c.error), Not(HasSubstr("BEGIN"))));
  }
}

}  // namespace
}  // namespace sparseserve
