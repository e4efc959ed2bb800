#include "tests/testing/signing_key.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <cstdint>

#include "engine/base/check.h"

namespace sparseserve::testing {

std::string EncodeBase64Url(std::string_view bytes) {
  constexpr char kAlphabet[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string text;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : bytes) {
    bits = (bits << 8 | static_cast<uint8_t>(c)) & 0xFFFF;
    for (count += 8; count >= 6; count -= 6) {
      text += kAlphabet[bits >> (count - 6) & 63];
    }
  }
  if (count > 0) text += kAlphabet[bits << (6 - count) & 63];
  return text;
}

struct SigningKey::State {
  explicit State(EVP_PKEY* made) : key(made) {
    SPARSESERVE_CHECK(key != nullptr);
  }
  ~State() { EVP_PKEY_free(key); }
  EVP_PKEY* const key;
};

namespace {

EVP_PKEY* Generate(SigningKey::Kind kind) {
  switch (kind) {
    case SigningKey::Kind::kRsa1024:
      return EVP_RSA_gen(1024);
    case SigningKey::Kind::kRsa2048:
      return EVP_RSA_gen(2048);
    case SigningKey::Kind::kP256:
      return EVP_EC_gen("P-256");
    case SigningKey::Kind::kP384:
      return EVP_EC_gen("P-384");
  }
  return nullptr;
}

}  // namespace

SigningKey::SigningKey(Kind kind)
    : state_(std::make_unique<State>(Generate(kind))) {}

SigningKey::~SigningKey() = default;

std::string SigningKey::PublicPem() const {
  BIO* const bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PUBKEY(bio, state_->key);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  std::string text(data, length);
  BIO_free(bio);
  return text;
}

std::string SigningKey::Sign(const std::string& text) const {
  EVP_MD_CTX* const context = EVP_MD_CTX_new();
  EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, state_->key);
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  size_t length = 0;
  EVP_DigestSign(context, nullptr, &length, bytes, text.size());
  std::string signature(length, '\0');
  EVP_DigestSign(context, reinterpret_cast<uint8_t*>(signature.data()), &length,
                 bytes, text.size());
  EVP_MD_CTX_free(context);
  signature.resize(length);
  if (EVP_PKEY_get_base_id(state_->key) != EVP_PKEY_EC) return signature;
  const auto* der = reinterpret_cast<const uint8_t*>(signature.data());
  ECDSA_SIG* const parts =
      d2i_ECDSA_SIG(nullptr, &der, static_cast<long>(length));
  std::string raw(64, '\0');
  auto* out = reinterpret_cast<uint8_t*>(raw.data());
  BN_bn2binpad(ECDSA_SIG_get0_r(parts), out, 32);
  BN_bn2binpad(ECDSA_SIG_get0_s(parts), out + 32, 32);
  ECDSA_SIG_free(parts);
  return raw;
}

std::string SigningKey::Token(const std::string& header,
                              const std::string& claims) const {
  const std::string text =
      EncodeBase64Url(header) + "." + EncodeBase64Url(claims);
  return text + "." + EncodeBase64Url(Sign(text));
}

}  // namespace sparseserve::testing
