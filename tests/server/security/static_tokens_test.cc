#include "server/security/static_tokens.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(StaticTokensTest, KnowsWhoseATokenIs) {
  const auto tokens = StaticTokens::Parse(
      "# who may call\n"
      "batch  0123456789abcdef\r\n"
      "\n"
      "\tchat\t0123456789abcdeg\n"
      "batch fedcba9876543210");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->SubjectOf("0123456789abcdef"), "batch");
  EXPECT_EQ(tokens->SubjectOf("0123456789abcdeg"), "chat");
  EXPECT_EQ(tokens->SubjectOf("fedcba9876543210"), "batch");
  for (const char* stranger :
       {"", "batch", "0123456789abcdeF", "0123456789abcdef0", "0123456789abcde",
        " 0123456789abcdef"}) {
    EXPECT_EQ(tokens->SubjectOf(stranger), std::nullopt) << stranger;
  }
}

TEST(StaticTokensTest, AnEmptyFileLetsNobodyIn) {
  const auto tokens = StaticTokens::Parse("");
  ASSERT_TRUE(tokens.ok());
  EXPECT_TRUE(tokens->empty());
  EXPECT_EQ(tokens->SubjectOf(""), std::nullopt);
}

TEST(StaticTokensTest, RefusesLinesThatAreNoneAndRepeatsNoToken) {
  struct Case {
    std::string text;
    std::string error;
  };
  for (const Case& c : {
           Case{"batch", "line 1: must be a subject and a token"},
           Case{"\nbatch secret0123456789 more", "line 2: must be a subject"},
           Case{"batch secret", "line 1: the token has 6 bytes"},
           Case{"batch secret0123456789\x01", "line 1: the token has 17"},
           Case{"batch " + std::string(1025, 's'), "the token has 1025 bytes"},
           Case{std::string(257, 'b') + " secret0123456789", "the subject"},
           Case{"a secret0123456789\nb secret0123456789", "the same token"},
       }) {
    const auto tokens = StaticTokens::Parse(c.text);
    ASSERT_FALSE(tokens.ok()) << c.error;
    EXPECT_THAT(std::string(tokens.status().message()),
                AllOf(HasSubstr(c.error), Not(HasSubstr("secret"))));
  }
}

}  // namespace
}  // namespace sparseserve
