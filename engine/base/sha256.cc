#include "engine/base/sha256.h"

#include <openssl/evp.h>

#include <array>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

constexpr size_t kDigestBytes = 32;

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

}  // namespace

struct Sha256::Context {
  std::unique_ptr<EVP_MD_CTX, FreeContext> digest{EVP_MD_CTX_new()};
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  SPARSESERVE_CHECK(context_->digest != nullptr);
  SPARSESERVE_CHECK(
      EVP_DigestInit_ex(context_->digest.get(), EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Add(absl::Span<const std::byte> bytes) {
  SPARSESERVE_CHECK(EVP_DigestUpdate(context_->digest.get(), bytes.data(),
                                     bytes.size()) == 1);
}

std::string Sha256::Finish() {
  std::array<unsigned char, kDigestBytes> digest;
  SPARSESERVE_CHECK(
      EVP_DigestFinal_ex(context_->digest.get(), digest.data(), nullptr) == 1);
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace sparseserve
