#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace sparseserve::testing {

// Unpadded, as JSON Web Tokens have it.
std::string EncodeBase64Url(std::string_view bytes);

// A key that signs JSON Web Tokens, and that nobody else knows of.
class SigningKey {
 public:
  enum class Kind { kRsa1024, kRsa2048, kP256, kP384 };
  explicit SigningKey(Kind kind);
  ~SigningKey();

  std::string PublicPem() const;
  // With SHA-256; of P-256 as RFC 7518 has it.
  std::string Sign(const std::string& text) const;
  // `header` and `claims` are JSON.
  std::string Token(const std::string& header, const std::string& claims) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sparseserve::testing
