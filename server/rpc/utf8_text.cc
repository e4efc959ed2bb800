#include "server/rpc/utf8_text.h"

#include <cstdint>

namespace sparseserve {
namespace {

struct Character {
  size_t bytes = 1;  // whole character, or the bad part to skip
  bool valid = false;
};

// REQUIRES: text is not empty.
Character First(std::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true};
  size_t length = 0;
  // Bounds of the second byte: they exclude overlong forms, surrogates and
  // what lies above U+10FFFF (Unicode, table 3-7).
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {1, false};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i >= text.size() || byte(i) < low || byte(i) > high) return {i, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true};
}

}  // namespace

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const Character character = First(text);
    if (!character.valid) return false;
    text.remove_prefix(character.bytes);
  }
  return true;
}

std::string ToUtf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Character character = First(bytes);
    if (character.valid) {
      text.append(bytes.substr(0, character.bytes));
    } else {
      text.append("\xEF\xBF\xBD");
    }
    bytes.remove_prefix(character.bytes);
  }
  return text;
}

}  // namespace sparseserve
