#include "server/security/tls_material.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free_all(bio); }
};
struct FreeCertificate {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Bio = std::unique_ptr<BIO, FreeBio>;
using Certificate = std::unique_ptr<X509, FreeCertificate>;
using PrivateKey = std::unique_ptr<EVP_PKEY, FreeKey>;

Bio Open(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// The first one of `text`; null if there is none.
Certificate ReadCertificate(BIO* bio) {
  return Certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr));
}

// How many there are; -1 if one of them cannot be read.
int CountCertificates(const std::string& text) {
  constexpr char kBegin[] = "-----BEGIN CERTIFICATE-----";
  int expected = 0;
  for (size_t at = text.find(kBegin); at != text.npos;
       at = text.find(kBegin, at + 1)) {
    ++expected;
  }
  const Bio bio = Open(text);
  int found = 0;
  while (ReadCertificate(bio.get()) != nullptr) ++found;
  ERR_clear_error();
  return found == expected ? found : -1;
}

// An encrypted key would ask at a terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::Status Unreadable(const char* what) {
  return absl::InvalidArgumentError(
      StrCat("the ", what, " is not readable as PEM"));
}

}  // namespace

absl::StatusOr<TlsMaterial> CheckTlsMaterial(const std::string& certificate,
                                             const std::string& key,
                                             const std::string& client_ca) {
  if (CountCertificates(certificate) < 1) return Unreadable("certificate");
  const Bio certificate_bio = Open(certificate);
  const Certificate leaf = ReadCertificate(certificate_bio.get());
  const Bio key_bio = Open(key);
  const PrivateKey private_key(
      PEM_read_bio_PrivateKey(key_bio.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (private_key == nullptr) return Unreadable("key");
  const bool fits = X509_check_private_key(leaf.get(), private_key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return absl::InvalidArgumentError("the key is not the certificate's");
  }
  if (!client_ca.empty() && CountCertificates(client_ca) < 1) {
    return Unreadable("client CA");
  }
  tm expiry = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(leaf.get()), &expiry) != 1) {
    return Unreadable("certificate");
  }
  TlsMaterial material;
  material.identity = StrCat(key, "\n", certificate);
  material.client_ca = client_ca;
  material.expiry = absl::FromTM(expiry, absl::UTCTimeZone());
  return material;
}

}  // namespace sparseserve
