#include "engine/tokenizer/nfc.h"

#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(NfcTest, ComposesAndOrders) {
  const std::pair<std::string, std::string> kCases[] = {
      {"", ""},
      {"plain text", "plain text"},
      {"e\u0301", "\u00e9"},
      {"\u00e9", "\u00e9"},
      // Marks in the order of their classes.
      {"a\u0301\u0323", "\u1ea1\u0301"},
      // Hangul.
      {"\u1100\u1161\u11a8", "\uac01"},
      // Singletons and exclusions.
      {"\u212b\u2126", "\u00c5\u03a9"},
      {"\u0958", "\u0915\u093c"},
      // A compatibility character stays.
      {"\ufb01\u00bd", "\ufb01\u00bd"},
      {"\u0301a", "\u0301a"},
      {std::string("\0e\u0301", 4), std::string("\0\u00e9", 3)},
      {"\U0001d15e", "\U0001d157\U0001d165"},
      {"\u1f82", "\u1f82"},
      {"\u03b1\u0345\u0300\u0313", "\u1fb2\u0313"},
  };
  for (const auto& [text, expected] : kCases) {
    EXPECT_EQ(NormalizeNfc(text), expected) << text;
  }
}

TEST(NfcTest, OrdersALongRunOfMarks) {
  constexpr int kCount = 200000;
  std::string marks = "x";
  std::string low;
  std::string high;
  for (int i = 0; i < kCount; ++i) {
    marks += i % 2 == 0 ? "\u0315" : "\u0334";
    (i % 2 == 0 ? high : low) += i % 2 == 0 ? "\u0315" : "\u0334";
  }
  EXPECT_EQ(NormalizeNfc(marks), "x" + low + high);
}

}  // namespace
}  // namespace sparseserve
