#include "tests/testing/test_certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <atomic>

#include "engine/base/check.h"
#include "engine/base/str_cat.h"

namespace sparseserve::testing {
namespace {

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeCertificate {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
using Key = std::unique_ptr<EVP_PKEY, FreeKey>;
using Certificate = std::unique_ptr<X509, FreeCertificate>;

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  std::string text(data, length);
  BIO_free(bio);
  return text;
}

std::string ToPem(X509* certificate) {
  BIO* const bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate);
  return TextOf(bio);
}

std::string ToPem(EVP_PKEY* key) {
  BIO* const bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  return TextOf(bio);
}

void AddExtension(X509* certificate, X509* issuer, int kind,
                  const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension =
      X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
  SPARSESERVE_CHECK(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

std::string AlternativeNames(const CertificateSubject& subject) {
  std::string names;
  for (const std::string& name : subject.dns_names) {
    names += StrCat(names.empty() ? "" : ",", "DNS:", name);
  }
  if (!subject.uri.empty()) {
    names += StrCat(names.empty() ? "" : ",", "URI:", subject.uri);
  }
  return names;
}

// Unsigned; null `issuer` for one that signs itself.
Certificate Fill(const CertificateSubject& subject, EVP_PKEY* key,
                 X509* issuer) {
  static std::atomic<int> serial{1};
  Certificate certificate(X509_new());
  X509* const x = certificate.get();
  X509_set_version(x, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
  ASN1_TIME_set(X509_getm_notBefore(x), absl::ToTimeT(subject.begin));
  ASN1_TIME_set(X509_getm_notAfter(x), absl::ToTimeT(subject.end));
  if (!subject.common_name.empty()) {
    X509_NAME_add_entry_by_txt(
        X509_get_subject_name(x), "CN", MBSTRING_ASC,
        reinterpret_cast<const unsigned char*>(subject.common_name.c_str()), -1,
        -1, 0);
  }
  X509* const signer = issuer == nullptr ? x : issuer;
  X509_set_issuer_name(x, X509_get_subject_name(signer));
  X509_set_pubkey(x, key);
  AddExtension(x, signer, NID_basic_constraints,
               issuer == nullptr ? "critical,CA:TRUE" : "CA:FALSE");
  const std::string names = AlternativeNames(subject);
  if (!names.empty()) AddExtension(x, signer, NID_subject_alt_name, names);
  return certificate;
}

}  // namespace

struct CertificateAuthority::State {
  Key key;
  Certificate certificate;
};

CertificateAuthority::CertificateAuthority(const std::string& name)
    : state_(std::make_unique<State>()) {
  state_->key.reset(EVP_EC_gen("P-256"));
  state_->certificate = Fill({.common_name = name}, state_->key.get(), nullptr);
  X509_sign(state_->certificate.get(), state_->key.get(), EVP_sha256());
  certificate_ = ToPem(state_->certificate.get());
}

CertificateAuthority::~CertificateAuthority() = default;

CertificatePair CertificateAuthority::Issue(
    const CertificateSubject& subject) const {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate =
      Fill(subject, key.get(), state_->certificate.get());
  X509_sign(certificate.get(), state_->key.get(), EVP_sha256());
  return {ToPem(certificate.get()), ToPem(key.get())};
}

}  // namespace sparseserve::testing
