#include "client/tool/printable_text.h"

#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

const std::string kBad = "\xEF\xBF\xBD";

TEST(PrintableTextTest, KeepsValidUtf8) {
  const std::string text("a\0ß€🌍\t\r\n\x7f", 15);
  EXPECT_TRUE(IsValidUtf8(text));
  EXPECT_EQ(WithValidUtf8(text), text);
}

TEST(PrintableTextTest, ReplacesEveryByteThatIsNotUtf8) {
  struct Case {
    std::string text;
    int bad_bytes;
  };
  for (const Case& c : {
           Case{"\x80", 1},              // continuation without a start
           Case{"\xC0\xAF", 2},          // overlong slash
           Case{"\xE0\x9F\xBF", 3},      // overlong
           Case{"\xED\xA0\x80", 3},      // surrogate
           Case{"\xF4\x90\x80\x80", 4},  // above U+10FFFF
           Case{"\xF5\x80\x80\x80", 4},  // no such start
           Case{"\xE2\x82", 2},          // cut
           Case{"\xF0\x9F\x8C", 3},      // cut
       }) {
    std::string expected = "x";
    for (int i = 0; i < c.bad_bytes; ++i) expected += kBad;
    EXPECT_EQ(WithValidUtf8("x" + c.text + "y"), expected + "y");
    EXPECT_FALSE(IsValidUtf8(c.text));
  }
}

TEST(PrintableTextTest, ReplacesControlsButNotLinesAndTabs) {
  EXPECT_EQ(WithoutControls("a\x1b[1mb\tc\n\r\x7f\xC2\x9B\xC2\xA0"),
            "a" + kBad + "[1mb\tc\n" + kBad + kBad + kBad + "\xC2\xA0");
}

}  // namespace
}  // namespace sparseserve
