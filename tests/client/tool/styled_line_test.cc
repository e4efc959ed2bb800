#include "client/tool/styled_line.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(StyledLineTest, CutsAtTheLastColumn) {
  StyledLine line("abc");
  line.Add("défg", TextStyle::kGood).Add("h");
  EXPECT_EQ(line.width(), 8);
  EXPECT_EQ(line.Render(8, false), "abcdéfgh");
  EXPECT_EQ(line.Render(5, false), "abcdé");
  EXPECT_EQ(line.Render(5, true), "abc\x1b[32mdé\x1b[0m");
  EXPECT_EQ(line.Render(3, true), "abc");
  EXPECT_EQ(line.Render(0, true), "");
}

TEST(StyledLineTest, AlignsToColumns) {
  EXPECT_EQ(StyledLine("ab").Tab(5).Add("c").Render(80, false), "ab   c");
  EXPECT_EQ(StyledLine("ab").Right(8, "1.5").Render(80, false), "ab   1.5");
  // What has no room stands behind a space.
  EXPECT_EQ(StyledLine("abcdef").Right(8, "1.5").Render(80, false),
            "abcdef 1.5");
  EXPECT_EQ(StyledLine("ab").Tab(5).Render(80, false), "ab");
}

TEST(StyledLineTest, LetsNoControlsThrough) {
  const StyledLine line("a\x1b[2Jb\nc\td\x7f\xff");
  EXPECT_EQ(line.Render(80, true),
            "a\xef\xbf\xbd[2Jb c d\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(line.width(), 12);
}

}  // namespace
}  // namespace sparseserve
