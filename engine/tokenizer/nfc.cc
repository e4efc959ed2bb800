#include "engine/tokenizer/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

constexpr utf8proc_option_t kNfc =
    static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

// No character decomposes canonically into more.
constexpr size_t kMostParts = 18;

int CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

std::vector<utf8proc_int32_t> Decompose(std::string_view text) {
  std::vector<utf8proc_int32_t> parts;
  parts.reserve(text.size());
  while (!text.empty()) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t bytes = utf8proc_iterate(
        reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
        static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    SPARSESERVE_CHECK(bytes > 0);
    const size_t size = parts.size();
    parts.resize(size + kMostParts);
    int boundary = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        code_point, &parts[size], kMostParts, kNfc, &boundary);
    SPARSESERVE_CHECK(count >= 0 && count <= kMostParts);
    parts.resize(size + count);
    text.remove_prefix(bytes);
  }
  return parts;
}

// Sorts each run of combining marks. The library's own ordering takes time
// that grows with the square of a run's length.
void OrderMarks(std::vector<utf8proc_int32_t>& parts) {
  const auto is_mark = [](utf8proc_int32_t part) {
    return CombiningClass(part) != 0;
  };
  auto end = parts.begin();
  while (end != parts.end()) {
    const auto begin = std::find_if(end, parts.end(), is_mark);
    end = std::find_if_not(begin, parts.end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
  }
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  const bool is_ascii = std::all_of(text.begin(), text.end(), [](char byte) {
    return static_cast<unsigned char>(byte) < 0x80;
  });
  if (is_ascii) return std::string(text);
  std::vector<utf8proc_int32_t> parts = Decompose(text);
  OrderMarks(parts);
  const utf8proc_ssize_t count = utf8proc_normalize_utf32(
      parts.data(), static_cast<utf8proc_ssize_t>(parts.size()), kNfc);
  SPARSESERVE_CHECK(count >= 0);
  std::string normalized;
  normalized.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t length = utf8proc_encode_char(parts[i], bytes);
    normalized.append(reinterpret_cast<const char*>(bytes), length);
  }
  return normalized;
}

}  // namespace sparseserve
