#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sparseserve {

// The pieces of text that a Jinja template holds, in order: what stands outside
// tags, and the string literals inside {{ }} and {% %}, unescaped. Comments are
// left out. Reads any bytes; a tag or literal without end reaches to the
// source's end.
std::vector<std::string> JinjaLiterals(std::string_view source);

// The literals of one template, to ask for.
class JinjaLiteralSet {
 public:
  explicit JinjaLiteralSet(std::string_view source)
      : literals_(JinjaLiterals(source)) {}

  // Whether one of them is `text`, or has it in it.
  bool Has(std::string_view text) const;
  bool HasPiece(std::string_view text) const;

 private:
  const std::vector<std::string> literals_;
};

}  // namespace sparseserve
