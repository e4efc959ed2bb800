#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace sparseserve {

enum class TextStyle { kPlain, kHeading, kWeak, kGood, kWarning, kBad };

// One line of a screen: texts, each in a style. Texts may come from a server:
// what is rendered is valid UTF-8 without control characters.
class StyledLine {
 public:
  StyledLine() = default;
  explicit StyledLine(absl::string_view text,
                      TextStyle style = TextStyle::kPlain) {
    Add(text, style);
  }

  StyledLine& Add(absl::string_view text, TextStyle style = TextStyle::kPlain);
  // Spaces until `column`, at least one if there is text.
  StyledLine& Tab(int column);
  // `text` ends before `column` if there is room for it.
  StyledLine& Right(int column, absl::string_view text,
                    TextStyle style = TextStyle::kPlain);

  // Characters, each of which takes one column.
  int width() const { return width_; }

  // At most `columns` wide; with ANSI sequences for the styles if `colours`.
  std::string Render(int columns, bool colours) const;

 private:
  std::vector<std::pair<std::string, TextStyle>> spans_;
  int width_ = 0;
};

}  // namespace sparseserve
