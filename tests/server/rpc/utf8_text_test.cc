#include "server/rpc/utf8_text.h"

#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// U+FFFD.
#define R "\xEF\xBF\xBD"

struct Case {
  const char* name;
  std::string bytes;
  std::string text;  // with replacements; equal to bytes if valid
};

class Utf8TextTest : public ::testing::TestWithParam<Case> {};

TEST_P(Utf8TextTest, ReplacesWhatIsNotUtf8AndNothingElse) {
  const Case& c = GetParam();
  EXPECT_EQ(ToUtf8(c.bytes), c.text);
  EXPECT_EQ(IsUtf8(c.bytes), c.bytes == c.text);
  EXPECT_TRUE(IsUtf8(ToUtf8(c.bytes)));
}

INSTANTIATE_TEST_SUITE_P(
    All, Utf8TextTest,
    ::testing::Values(Case{"Empty", "", ""}, Case{"Ascii", "a\x7F", "a\x7F"},
                      Case{"Nul", std::string("a\0b", 3),
                           std::string("a\0b", 3)},
                      Case{"TwoBytes", "\xC3\xA9", "\xC3\xA9"},
                      Case{"ThreeBytes", "\xE2\x82\xAC", "\xE2\x82\xAC"},
                      Case{"FourBytes", "\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
                      Case{"Highest", "\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
                      Case{"BareContinuation", "a\x80z", "a" R "z"},
                      Case{"CutShort", "a\xE2\x82", "a" R},
                      Case{"CutShortThenText", "\xF0\x9F\x98z", R "z"},
                      Case{"OverlongSlash", "\xC0\xAF", R R},
                      Case{"OverlongThreeBytes", "\xE0\x80\xAF", R R R},
                      Case{"OverlongFourBytes", "\xF0\x80\x80\xAF", R R R R},
                      Case{"Surrogate", "\xED\xA0\x80", R R R},
                      Case{"AboveUnicode", "\xF4\x90\x80\x80", R R R R},
                      Case{"NoLead", "\xFF\xFE", R R},
                      Case{"LeadThenLead", "\xC3\xC3\xA9", R "\xC3\xA9"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sparseserve
