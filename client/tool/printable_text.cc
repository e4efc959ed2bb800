#include "client/tool/printable_text.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace sparseserve {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

bool IsContinuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

// Bytes of the well-formed sequence that starts `text`, 0 if none does; the
// ranges of the second byte are table 3-7 of the Unicode standard.
size_t SequenceLength(absl::string_view text) {
  const auto byte = [text](size_t i) -> uint8_t {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : 0;
  };
  const uint8_t first = byte(0);
  if (first < 0x80) return text.empty() ? 0 : 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  if (byte(1) < low || byte(1) > high) return 0;
  if (first < 0xE0) return 2;
  if (!IsContinuation(byte(2))) return 0;
  if (first < 0xF0) return 3;
  return IsContinuation(byte(3)) ? 4 : 0;
}

bool IsControl(absl::string_view sequence) {
  const auto first = static_cast<uint8_t>(sequence[0]);
  if (sequence.size() == 1) {
    return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7F;
  }
  // U+0080 to U+009F.
  return first == 0xC2 && static_cast<uint8_t>(sequence[1]) < 0xA0;
}

std::string Replace(absl::string_view text, bool controls_too) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    const absl::string_view sequence = text.substr(0, length);
    if (length == 0 || (controls_too && IsControl(sequence))) {
      absl::StrAppend(&result, kReplacement);
    } else {
      absl::StrAppend(&result, sequence);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return result;
}

}  // namespace

std::string WithValidUtf8(absl::string_view text) {
  return Replace(text, /*controls_too=*/false);
}

std::string WithoutControls(absl::string_view text) {
  return Replace(text, /*controls_too=*/true);
}

bool IsValidUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace sparseserve
