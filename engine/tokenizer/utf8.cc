#include "engine/tokenizer/utf8.h"

#include <cstdint>

namespace sparseserve {
namespace {

// A lead byte's length, and the range of the byte after it. The narrower
// ranges exclude overlong forms, surrogates and what is above U+10FFFF
// (Unicode 15, table 3-7).
struct Lead {
  size_t length;  // 0: no character begins so
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xbf;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xc2) return {0};
  if (byte < 0xe0) return {2};
  if (byte == 0xe0) return {3, 0xa0};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3};
  if (byte == 0xf0) return {4, 0x90};
  if (byte < 0xf4) return {4};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0};
}

}  // namespace

Utf8Prefix ReadUtf8Prefix(std::string_view text) {
  const Lead lead = LeadOf(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return {Utf8Prefix::Kind::kInvalid, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Prefix::Kind::kTruncated, i};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xbf;
    if (byte < min || byte > max) return {Utf8Prefix::Kind::kInvalid, i};
  }
  return {Utf8Prefix::Kind::kCharacter, lead.length};
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    const Utf8Prefix prefix = ReadUtf8Prefix(text.substr(offset));
    if (prefix.kind != Utf8Prefix::Kind::kCharacter) return offset;
    offset += prefix.bytes;
  }
  return std::nullopt;
}

}  // namespace sparseserve
