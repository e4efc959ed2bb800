#include "engine/tokenizer/white_space.h"

#include <string_view>
#include <utility>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(TrimWhiteSpaceTest, TakesWhatPythonTakesAtBothEnds) {
  const std::pair<std::string_view, std::string_view> kCases[] = {
      {"", ""},
      {" \t\n\v\f\r\x1c\x1d\x1e\x1f", ""},
      {"a", "a"},
      {" a b ", "a b"},
      {"\u3000\u0085a\u00a0\u2028", "a"},
      {"\u2000\u2005\u200a", ""},
      // No white space: a zero-width space, a joiner, a byte order mark.
      {"\u200b", "\u200b"},
      {"\u2060", "\u2060"},
      {"\ufeff", "\ufeff"},
      {"\u180e", "\u180e"},
      {std::string_view("\0 ", 2), std::string_view("\0", 1)},
  };
  for (const auto& [text, expected] : kCases) {
    EXPECT_EQ(TrimWhiteSpace(text), expected) << text;
  }
}

}  // namespace
}  // namespace sparseserve
