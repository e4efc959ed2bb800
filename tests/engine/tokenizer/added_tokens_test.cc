#include "engine/tokenizer/added_tokens.h"

#include <algorithm>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

AddedTokens Tokens() {
  return AddedTokens({{"<a>", 1}, {"<a>b", 2}, {"<ab", 3}, {"  ", 4}});
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
  const AddedTokens tokens({{"abcde", 2}, {"ab", 1}});
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

TEST(AddedTokensTest, OrdersBytesAsUnsigned) {
  const AddedTokens tokens({{"\xe3\x80\x80", 1}, {"z", 2}, {"\xe3\x80", 3}});
  EXPECT_EQ(tokens.FindNext("z", 0)->token, 2);
  EXPECT_EQ(tokens.FindNext("\xe3\x80\x80", 0)->token, 1);
  EXPECT_EQ(tokens.FindNext("\xe3\x80z", 0)->token, 3);
}

// Against trying every literal at every byte, on texts and literals of few
// different bytes.
TEST(AddedTokensTest, EqualsAPlainSearch) {
  std::mt19937 random(1);
  const auto word = [&random](size_t bytes) {
    std::string text(bytes, 'a');
    for (char& byte : text) byte = "ab\xff"[random() % 3];
    return text;
  };
  for (int round = 0; round < 200; ++round) {
    std::set<std::string> texts;
    for (int i = 0; i < 8; ++i) texts.insert(word(1 + random() % 5));
    std::vector<AddedTokens::Literal> literals;
    for (const std::string& text : texts) {
      literals.push_back({text, static_cast<TokenId>(literals.size())});
    }
    std::shuffle(literals.begin(), literals.end(), random);
    const AddedTokens tokens(literals);
    const std::string text = word(12);
    std::optional<AddedTokens::Match> wanted;
    for (size_t at = 0; at < text.size() && !wanted.has_value(); ++at) {
      for (const AddedTokens::Literal& literal : literals) {
        const bool longer =
            !wanted.has_value() || literal.text.size() > wanted->bytes;
        if (longer &&
            text.compare(at, literal.text.size(), literal.text) == 0) {
          wanted = {at, literal.text.size(), literal.token};
        }
      }
    }
    const auto found = tokens.FindNext(text, 0);
    ASSERT_EQ(found.has_value(), wanted.has_value());
    if (!wanted.has_value()) continue;
    EXPECT_EQ(found->token, wanted->token);
    EXPECT_EQ(found->offset, wanted->offset);
    EXPECT_EQ(found->bytes, wanted->bytes);
  }
}

}  // namespace
}  // namespace sparseserve
