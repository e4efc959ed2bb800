#include "engine/tokenizer/utf8_decoder.h"

#include "engine/tokenizer/utf8.h"

namespace sparseserve {
namespace {
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD
}  // namespace

std::string Utf8Decoder::Push(std::string_view bytes) {
  const std::string joined = pending_.append(bytes);
  pending_.clear();
  std::string_view rest = joined;
  std::string text;
  while (!rest.empty()) {
    const Utf8Prefix prefix = ReadUtf8Prefix(rest);
    switch (prefix.kind) {
      case Utf8Prefix::Kind::kCharacter:
        text.append(rest.substr(0, prefix.bytes));
        break;
      case Utf8Prefix::Kind::kInvalid:
        text.append(kReplacement);
        break;
      case Utf8Prefix::Kind::kTruncated:
        pending_ = rest;
        break;
    }
    rest.remove_prefix(prefix.bytes);
  }
  return text;
}

std::string Utf8Decoder::Flush() {
  if (pending_.empty()) return "";
  pending_.clear();
  return std::string(kReplacement);
}

}  // namespace sparseserve
