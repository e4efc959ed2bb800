#include "engine/tokenizer/token_count_bound.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(TokenCountBoundTest, CountsEachByteAsItsShareOfTheLongestToken) {
  TokenCountBound bound;
  for (const char* token : {"a", "b", "abb", "c"}) bound.Add(token);
  EXPECT_FALSE(bound.Exceeded(2, "abbabb"));
  EXPECT_TRUE(bound.Exceeded(1, "abbabb"));
  EXPECT_FALSE(bound.Exceeded(3, "ccc"));
  EXPECT_TRUE(bound.Exceeded(2, "ccc"));
  EXPECT_FALSE(bound.Exceeded(0, ""));
  EXPECT_TRUE(bound.Exceeded(0, "a"));
}

TEST(TokenCountBoundTest, ExemptBytesAreNoSign) {
  TokenCountBound bound;
  bound.Add("a");
  bound.Exempt('x');
  EXPECT_FALSE(bound.Exceeded(1, "xxax"));
  EXPECT_TRUE(bound.Exceeded(1, "xaax"));
}

}  // namespace
}  // namespace sparseserve
