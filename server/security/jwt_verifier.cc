#include "server/security/jwt_verifier.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/str_cat.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using Json = nlohmann::json;

template <typename T, void (*free_function)(T*)>
struct Freer {
  void operator()(T* object) const { free_function(object); }
};
using OwnedKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;
using OwnedSignature =
    std::unique_ptr<ECDSA_SIG, Freer<ECDSA_SIG, ECDSA_SIG_free>>;
using OwnedDigest =
    std::unique_ptr<EVP_MD_CTX, Freer<EVP_MD_CTX, EVP_MD_CTX_free>>;
using OwnedBio = std::unique_ptr<BIO, Freer<BIO, BIO_free_all>>;

constexpr size_t kEs256Bytes = 64;  // r and s, as RFC 7518 has them
constexpr int kLeastRsaBits = 2048;
// Seconds since 1970 that a double holds exactly, and absl::Time too.
constexpr double kMostSeconds = 1e11;

// Unpadded base64url, as RFC 7515 has it; nothing if it is none, or if bits are
// set that no byte has.
std::optional<std::string> DecodeBase64Url(std::string_view text) {
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = c - 'A';
    } else if (c >= 'a' && c <= 'z') {
      value = c - 'a' + 26;
    } else if (c >= '0' && c <= '9') {
      value = c - '0' + 52;
    } else if (c == '-') {
      value = 62;
    } else if (c == '_') {
      value = 63;
    } else {
      return std::nullopt;
    }
    bits = bits << 6 | value;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xFF);
  }
  if (count == 6 || (bits & ((1u << count) - 1)) != 0) return std::nullopt;
  return bytes;
}

// A JSON object of so many bytes at most, or null.
Json ParseObject(std::string_view encoded, size_t most_bytes) {
  if (encoded.size() > most_bytes / 3 * 4 + 4) return nullptr;
  const std::optional<std::string> text = DecodeBase64Url(encoded);
  if (!text.has_value()) return nullptr;
  Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json(nullptr);
}

std::string StringOf(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return "";
  return found->get<std::string>();
}

// Nothing if there is none or it is no time.
std::optional<absl::Time> TimeOf(const Json& claims, const char* key) {
  const auto found = claims.find(key);
  if (found == claims.end() || !found->is_number()) return std::nullopt;
  const double seconds = found->get<double>();
  if (!(std::abs(seconds) <= kMostSeconds)) return std::nullopt;
  return absl::UnixEpoch() + absl::Seconds(seconds);
}

bool HasAudience(const Json& claims, const std::string& audience) {
  const auto found = claims.find("aud");
  if (found == claims.end()) return false;
  if (found->is_string()) return found->get<std::string>() == audience;
  return found->is_array() &&
         std::any_of(found->begin(), found->end(), [&](const Json& one) {
           return one.is_string() && one.get<std::string>() == audience;
         });
}

// Empty if it suits.
std::string WhyUnsuitable(const EVP_PKEY* key,
                          JwtVerifier::Algorithm algorithm) {
  if (algorithm == JwtVerifier::Algorithm::kRs256) {
    if (EVP_PKEY_get_base_id(key) != EVP_PKEY_RSA) return "is not of RSA";
    const int bits = EVP_PKEY_get_bits(key);
    return bits >= kLeastRsaBits
               ? ""
               : StrCat("has ", bits, " bits, must be at least ",
                        kLeastRsaBits);
  }
  char group[32] = "";
  size_t length = 0;
  const bool is_p256 =
      EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
      EVP_PKEY_get_group_name(key, group, sizeof(group), &length) == 1 &&
      std::string_view(group) == "prime256v1";
  return is_p256 ? "" : "is not of the curve P-256";
}

// Each key's text, from its first line to the next key's.
std::vector<std::string_view> PublicKeyBlocks(std::string_view text) {
  constexpr std::string_view kBegin = "-----BEGIN PUBLIC KEY-----";
  std::vector<std::string_view> blocks;
  size_t begin = text.find(kBegin);
  while (begin != text.npos) {
    const size_t next = text.find(kBegin, begin + kBegin.size());
    blocks.push_back(text.substr(begin, next - begin));
    begin = next;
  }
  return blocks;
}

// As OpenSSL wants it; empty if it is none.
std::string ToDer(const std::string& signature) {
  if (signature.size() != kEs256Bytes) return "";
  const auto* bytes = reinterpret_cast<const uint8_t*>(signature.data());
  const OwnedSignature parts(ECDSA_SIG_new());
  BIGNUM* r = BN_bin2bn(bytes, kEs256Bytes / 2, nullptr);
  BIGNUM* s = BN_bin2bn(bytes + kEs256Bytes / 2, kEs256Bytes / 2, nullptr);
  if (ECDSA_SIG_set0(parts.get(), r, s) != 1) {
    BN_free(r);
    BN_free(s);
    return "";
  }
  uint8_t* der = nullptr;
  const int length = i2d_ECDSA_SIG(parts.get(), &der);
  if (length <= 0) return "";
  std::string result(reinterpret_cast<const char*>(der), length);
  OPENSSL_free(der);
  return result;
}

}  // namespace

struct JwtVerifier::Key {
  OwnedKey key;
};

JwtVerifier::JwtVerifier(Options options, std::vector<Key> keys)
    : options_(std::move(options)), keys_(std::move(keys)) {}
JwtVerifier::~JwtVerifier() = default;
JwtVerifier::JwtVerifier(JwtVerifier&&) noexcept = default;

absl::StatusOr<JwtVerifier> JwtVerifier::Create(Options options,
                                                const std::string& keys) {
  if (options.audience.empty()) {
    return absl::InvalidArgumentError("the audience is empty");
  }
  std::vector<Key> parsed;
  for (const std::string_view block : PublicKeyBlocks(keys)) {
    if (parsed.size() == kMostKeys) {
      return absl::InvalidArgumentError(
          StrCat("more than ", kMostKeys, " keys"));
    }
    const OwnedBio bio(
        BIO_new_mem_buf(block.data(), static_cast<int>(block.size())));
    OwnedKey key(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
    ERR_clear_error();
    const std::string why = key == nullptr
                                ? "cannot be read"
                                : WhyUnsuitable(key.get(), options.algorithm);
    if (!why.empty()) {
      return absl::InvalidArgumentError(
          StrCat("key ", parsed.size() + 1, " ", why));
    }
    parsed.push_back({std::move(key)});
  }
  if (parsed.empty()) {
    return absl::InvalidArgumentError(
        "there is no public key in PEM (BEGIN PUBLIC KEY)");
  }
  return JwtVerifier(std::move(options), std::move(parsed));
}

JwtVerifier::Result JwtVerifier::Verify(std::string_view token,
                                        absl::Time now) const {
  const Result malformed = {"", AuthFailure::kMalformedToken};
  if (token.size() > kMostTokenBytes) return malformed;
  const size_t first = token.find('.');
  if (first == token.npos) return malformed;
  const size_t second = token.find('.', first + 1);
  if (second == token.npos || token.find('.', second + 1) != token.npos) {
    return malformed;
  }
  const Json header = ParseObject(token.substr(0, first), kMostHeaderBytes);
  const std::optional<std::string> signature =
      DecodeBase64Url(token.substr(second + 1));
  if (header.is_null() || !signature.has_value()) return malformed;
  // The token does not choose how it is verified. Extensions that must be
  // understood are not.
  const char* const name =
      options_.algorithm == Algorithm::kRs256 ? "RS256" : "ES256";
  if (StringOf(header, "alg") != name || header.contains("crit")) {
    return {"", AuthFailure::kBadSignature};
  }
  if (!IsSigned(token.substr(0, second), *signature)) {
    return {"", AuthFailure::kBadSignature};
  }
  const Json claims =
      ParseObject(token.substr(first + 1, second - first - 1), kMostTokenBytes);
  if (claims.is_null()) return malformed;
  const std::optional<absl::Time> expires = TimeOf(claims, "exp");
  if (!expires.has_value()) return {"", AuthFailure::kWrongClaims};
  if (now >= *expires + options_.leeway) {
    return {"", AuthFailure::kExpiredToken};
  }
  if (claims.contains("nbf")) {
    const std::optional<absl::Time> begins = TimeOf(claims, "nbf");
    if (!begins.has_value()) return {"", AuthFailure::kWrongClaims};
    if (now < *begins - options_.leeway) {
      return {"", AuthFailure::kTokenNotYetValid};
    }
  }
  const std::string subject = StringOf(claims, "sub");
  if (!HasAudience(claims, options_.audience) ||
      (!options_.issuer.empty() &&
       StringOf(claims, "iss") != options_.issuer) ||
      subject.empty() || subject.size() > kMostSubjectBytes) {
    return {"", AuthFailure::kWrongClaims};
  }
  return {subject, std::nullopt};
}

bool JwtVerifier::IsSigned(std::string_view text,
                           const std::string& signature) const {
  const std::string bytes =
      options_.algorithm == Algorithm::kEs256 ? ToDer(signature) : signature;
  if (bytes.empty()) return false;
  for (const Key& key : keys_) {
    const OwnedDigest digest(EVP_MD_CTX_new());
    const bool is_signed =
        EVP_DigestVerifyInit(digest.get(), nullptr, EVP_sha256(), nullptr,
                             key.key.get()) == 1 &&
        EVP_DigestVerify(
            digest.get(), reinterpret_cast<const uint8_t*>(bytes.data()),
            bytes.size(), reinterpret_cast<const uint8_t*>(text.data()),
            text.size()) == 1;
    ERR_clear_error();
    if (is_signed) return true;
  }
  return false;
}

}  // namespace sparseserve
