#include "engine/tokenizer/byte_alphabet.h"

#include <array>

namespace sparseserve {
namespace {

constexpr int kBytes = 256;

constexpr bool IsVisibleLatin1(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
         byte >= 0xae;
}

constexpr std::array<uint16_t, kBytes> MakeCodePoints() {
  std::array<uint16_t, kBytes> code_points = {};
  uint16_t next = 0x100;
  for (int byte = 0; byte < kBytes; ++byte) {
    code_points[byte] =
        IsVisibleLatin1(byte) ? static_cast<uint16_t>(byte) : next++;
  }
  return code_points;
}

constexpr std::array<uint16_t, kBytes> kCodePoints = MakeCodePoints();
constexpr int kCodePointEnd = 0x100 + 68;  // 68 bytes are not visible

constexpr std::array<int16_t, kCodePointEnd> MakeBytes() {
  std::array<int16_t, kCodePointEnd> bytes = {};
  for (int16_t& byte : bytes) byte = -1;
  for (int byte = 0; byte < kBytes; ++byte) {
    bytes[kCodePoints[byte]] = static_cast<int16_t>(byte);
  }
  return bytes;
}

constexpr std::array<int16_t, kCodePointEnd> kByteOf = MakeBytes();

}  // namespace

std::string ByteToAlphabet(uint8_t byte) {
  const int code_point = kCodePoints[byte];
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3f))};
}

std::optional<std::string> AlphabetToBytes(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    int code_point = static_cast<uint8_t>(text[i]);
    if (code_point >= 0x80) {
      // The alphabet's other characters all take two bytes of UTF-8.
      if ((code_point & 0xe0) != 0xc0 || ++i == text.size()) {
        return std::nullopt;
      }
      const int tail = static_cast<uint8_t>(text[i]);
      if ((tail & 0xc0) != 0x80) return std::nullopt;
      code_point = (code_point & 0x1f) << 6 | (tail & 0x3f);
    }
    if (code_point >= kCodePointEnd || kByteOf[code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kByteOf[code_point]));
  }
  return bytes;
}

}  // namespace sparseserve
