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

}  // namespace sparseserve
