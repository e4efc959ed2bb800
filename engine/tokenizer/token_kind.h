#pragma once

namespace sparseserve {

// What a token is for, with the numbers that GGUF gives.
enum class TokenKind {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Special tokens come out of text only where a caller asks for it.
constexpr bool IsSpecialKind(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown;
}

// Tokens that are found in text as they stand, before it is split.
constexpr bool IsLiteralKind(TokenKind kind) {
  return IsSpecialKind(kind) || kind == TokenKind::kUserDefined;
}

}  // namespace sparseserve
