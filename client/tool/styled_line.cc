#include "client/tool/styled_line.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/tool/printable_text.h"

namespace sparseserve {
namespace {

// Of the characters of UTF-8, which is valid here.
bool IsContinuation(char c) { return (c & 0xC0) == 0x80; }

int Characters(absl::string_view text) {
  return static_cast<int>(std::count_if(
      text.begin(), text.end(), [](char c) { return !IsContinuation(c); }));
}

absl::string_view FirstCharacters(absl::string_view text, int count) {
  size_t end = 0;
  while (end < text.size() && (count > 0 || IsContinuation(text[end]))) {
    if (!IsContinuation(text[end])) --count;
    ++end;
  }
  return text.substr(0, end);
}

const char* Sequence(TextStyle style) {
  switch (style) {
    case TextStyle::kPlain:
      return "";
    case TextStyle::kHeading:
      return "\x1b[1m";
    case TextStyle::kWeak:
      return "\x1b[2m";
    case TextStyle::kGood:
      return "\x1b[32m";
    case TextStyle::kWarning:
      return "\x1b[33m";
    case TextStyle::kBad:
      return "\x1b[31m";
  }
  return "";
}

}  // namespace

StyledLine& StyledLine::Add(absl::string_view text, TextStyle style) {
  std::string shown = WithoutControls(text);
  std::replace(shown.begin(), shown.end(), '\n', ' ');
  std::replace(shown.begin(), shown.end(), '\t', ' ');
  width_ += Characters(shown);
  spans_.emplace_back(std::move(shown), style);
  return *this;
}

StyledLine& StyledLine::Tab(int column) {
  const int least = width_ > 0 ? 1 : 0;
  return Add(std::string(std::max(column - width_, least), ' '));
}

StyledLine& StyledLine::Right(int column, absl::string_view text,
                              TextStyle style) {
  return Tab(column - Characters(text)).Add(text, style);
}

std::string StyledLine::Render(int columns, bool colours) const {
  std::string line;
  for (const auto& [text, style] : spans_) {
    const absl::string_view shown = FirstCharacters(text, columns);
    columns -= Characters(shown);
    if (colours && style != TextStyle::kPlain && !shown.empty()) {
      absl::StrAppend(&line, Sequence(style), shown, "\x1b[0m");
    } else {
      absl::StrAppend(&line, shown);
    }
  }
  if (!colours) line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace sparseserve
