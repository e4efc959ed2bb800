#include "server/scheduling/stop_matcher.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// By definition: the longest of `strings` that `text` ends with.
std::optional<size_t> LongestAtEnd(const std::string& text,
                                   const std::vector<std::string>& strings) {
  std::optional<size_t> longest;
  for (size_t i = 0; i < strings.size(); ++i) {
    if (text.ends_with(strings[i]) &&
        (!longest.has_value() ||
         strings[i].size() > strings[*longest].size())) {
      longest = i;
    }
  }
  return longest;
}

// By definition: the longest tail of `text` that begins a longer string.
size_t HeldAtEnd(const std::string& text,
                 const std::vector<std::string>& strings) {
  size_t held = 0;
  for (const std::string& string : strings) {
    for (size_t n = 1; n < string.size() && n <= text.size(); ++n) {
      if (text.ends_with(string.substr(0, n))) held = std::max(held, n);
    }
  }
  return held;
}

TEST(StopMatcherTest, WithoutStringsHoldsNothing) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Feed('a'), std::nullopt);
  EXPECT_EQ(matcher.held(), 0u);
}

TEST(StopMatcherTest, AgreesWithTheDefinitionOnRandomStrings) {
  std::mt19937 random(3);
  const auto letters = [&random](int length) {
    std::string string;
    for (int i = 0; i < length; ++i) string += "ab"[random() % 2];
    return string;
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> strings(1 + random() % 4);
    for (std::string& string : strings) string = letters(1 + random() % 6);
    std::sort(strings.begin(), strings.end());
    strings.erase(std::unique(strings.begin(), strings.end()), strings.end());
    StopMatcher matcher(strings);
    std::string text;
    for (int i = 0; i < 40; ++i) {
      text += letters(1);
      ASSERT_EQ(matcher.Feed(text.back()), LongestAtEnd(text, strings)) << text;
      ASSERT_EQ(matcher.held(), HeldAtEnd(text, strings)) << text;
    }
  }
}

}  // namespace
}  // namespace sparseserve
