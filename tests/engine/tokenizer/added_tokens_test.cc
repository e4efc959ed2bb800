#include "engine/tokenizer/added_tokens.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

AddedTokens Tokens() {
  AddedTokens tokens;
  tokens.Add("<a>", 1);
  tokens.Add("<a>b", 2);
  tokens.Add("<ab", 3);
  tokens.Add("  ", 4);
  return tokens;
}

TEST(AddedTokensTest, FindsTheLeftmostAndOfThoseTheLongest) {
  const AddedTokens tokens = Tokens();
  const auto longest = tokens.FindNext("x <a>bc <a>", 0);
  ASSERT_TRUE(longest.has_value());
  EXPECT_EQ(longest->token, 2);
  EXPECT_EQ(longest->offset, 2u);
  EXPECT_EQ(longest->bytes, 4u);
  const auto next = tokens.FindNext("x <a>bc <a>", 6);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->token, 1);
  EXPECT_EQ(next->offset, 8u);
}

TEST(AddedTokensTest, GoesBackToAShorterMatchWhenALongerOneBreaksOff) {
  AddedTokens tokens;
  tokens.Add("ab", 1);
  tokens.Add("abcde", 2);
  const auto match = tokens.FindNext("abcdx", 0);
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->token, 1);
  EXPECT_EQ(match->bytes, 2u);
}

TEST(AddedTokensTest, FindsNothingInPartsOfATokenOrAtTheEnd) {
  const AddedTokens tokens = Tokens();
  for (const char* text : {"", "<", "<a", "a>", "<<", " "}) {
    EXPECT_FALSE(tokens.FindNext(text, 0).has_value()) << text;
  }
  EXPECT_FALSE(tokens.FindNext("<a>", 3).has_value());
  EXPECT_FALSE(AddedTokens().FindNext("<a>", 0).has_value());
}

}  // namespace
}  // namespace sparseserve
