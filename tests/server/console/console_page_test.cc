#include "server/console/console_page.h"

#include <string>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int Occurrences(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = text.find(part); at != text.npos;
       at = text.find(part, at + part.size())) {
    ++found;
  }
  return found;
}

TEST(ConsolePageTest, ScriptAndStyleCarryTheNonceOfThePolicy) {
  const std::string page = ConsolePage("abc123");
  EXPECT_EQ(Occurrences(page, "<script nonce=\"abc123\">"), 1);
  EXPECT_EQ(Occurrences(page, "<style nonce=\"abc123\">"), 1);
  EXPECT_EQ(Occurrences(page, "<script"), 1);
  EXPECT_EQ(Occurrences(page, "<style"), 1);
  EXPECT_THAT(page, Not(HasSubstr("{nonce}")));
  const std::string policy = ConsolePagePolicy("abc123");
  EXPECT_THAT(policy, HasSubstr("default-src 'none'"));
  EXPECT_THAT(policy, HasSubstr("script-src 'nonce-abc123'"));
  EXPECT_THAT(policy, HasSubstr("style-src 'nonce-abc123'"));
  EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
}

TEST(ConsolePageTest, LoadsNothingFromElsewhere) {
  const std::string page = ConsolePage("abc123");
  EXPECT_EQ(Occurrences(page, "src="), 0);
  // Namespaces of SVG are names, not addresses that are fetched.
  EXPECT_EQ(Occurrences(page, "://"),
            Occurrences(page, "http://www.w3.org/2000/svg"));
  EXPECT_EQ(Occurrences(page, "@import"), 0);
  EXPECT_EQ(Occurrences(page, " style="), 0);
  EXPECT_EQ(Occurrences(page, "innerHTML"), 0);
}

}  // namespace
}  // namespace sparseserve
