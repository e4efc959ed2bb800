#include "engine/tokenizer/jinja_literals.h"

#include <algorithm>

namespace sparseserve {
namespace {

char Unescape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    default:
      return c;
  }
}

// Takes the string literal at the front of `rest`, which begins with its quote.
std::string TakeLiteral(std::string_view& rest) {
  const char quote = rest[0];
  std::string literal;
  size_t i = 1;
  for (; i < rest.size() && rest[i] != quote; ++i) {
    const bool escaped = rest[i] == '\\' && i + 1 < rest.size();
    literal.push_back(escaped ? Unescape(rest[++i]) : rest[i]);
  }
  rest.remove_prefix(std::min(i + 1, rest.size()));
  return literal;
}

// Takes the tag at the front of `rest`, "{{" or "{%", and appends its literals.
void TakeTag(std::string_view& rest, std::vector<std::string>& literals) {
  const std::string_view end = rest.substr(0, 2) == "{{" ? "}}" : "%}";
  rest.remove_prefix(2);
  while (!rest.empty()) {
    if (rest[0] == '\'' || rest[0] == '"') {
      literals.push_back(TakeLiteral(rest));
    } else if (rest.substr(0, 2) == end) {
      rest.remove_prefix(2);
      return;
    } else {
      rest.remove_prefix(1);
    }
  }
}

void TakeComment(std::string_view& rest) {
  const size_t end = rest.find("#}", 2);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 2);
}

// Where the next tag or comment begins; the end if none does.
size_t FindTag(std::string_view rest) {
  for (size_t i = 0; i + 1 < rest.size(); ++i) {
    const char next = rest[i + 1];
    if (rest[i] == '{' && (next == '{' || next == '%' || next == '#')) return i;
  }
  return rest.size();
}

}  // namespace

std::vector<std::string> JinjaLiterals(std::string_view source) {
  std::vector<std::string> literals;
  std::string_view rest = source;
  while (!rest.empty()) {
    const size_t tag = FindTag(rest);
    if (tag > 0) literals.emplace_back(rest.substr(0, tag));
    rest.remove_prefix(tag);
    if (rest.empty()) break;
    if (rest[1] == '#') {
      TakeComment(rest);
    } else {
      TakeTag(rest, literals);
    }
  }
  return literals;
}

bool JinjaLiteralSet::Has(std::string_view text) const {
  return std::find(literals_.begin(), literals_.end(), text) != literals_.end();
}

bool JinjaLiteralSet::HasPiece(std::string_view text) const {
  return std::any_of(literals_.begin(), literals_.end(),
                     [text](const std::string& literal) {
                       return literal.find(text) != std::string::npos;
                     });
}

}  // namespace sparseserve
