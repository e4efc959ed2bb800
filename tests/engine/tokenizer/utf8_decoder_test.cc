#include "engine/tokenizer/utf8_decoder.h"

#include <optional>
#include <random>
#include <string>
#include <utility>

#include "engine/tokenizer/utf8.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using namespace std::string_literals;

const std::string kReplaced = "\xef\xbf\xbd";  // U+FFFD

std::string DecodeWhole(const std::string& bytes) {
  Utf8Decoder decoder;
  std::string text = decoder.Push(bytes);
  return text + decoder.Flush();
}

TEST(Utf8DecoderTest, HoldsBackACharacterUntilItIsWhole) {
  Utf8Decoder decoder;
  EXPECT_EQ(decoder.Push("a\xf0\x9f"), "a");
  EXPECT_EQ(decoder.Push(""), "");
  EXPECT_EQ(decoder.Push("\x99"), "");
  EXPECT_EQ(decoder.Push("\x82z"), "\xf0\x9f\x99\x82z");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(Utf8DecoderTest, EndsACharacterThatWasCutShortWithOneReplacement) {
  Utf8Decoder decoder;
  EXPECT_EQ(decoder.Push("\xf0\x9f\x99"), "");
  EXPECT_EQ(decoder.Flush(), kReplaced);
  EXPECT_EQ(decoder.Flush(), "");
  EXPECT_EQ(decoder.Push("ok"), "ok");
}

// What bytes.decode("utf-8", errors="replace") of Python 3.11 makes of each.
TEST(Utf8DecoderTest, ReplacesEachMaximalInvalidPartOnce) {
  const std::string r = kReplaced;
  const std::pair<std::string, std::string> kCases[] = {
      {"", ""},
      {"\x80", r},
      {"\xbf\x80", r + r},
      {"\xc0\xaf", r + r},          // overlong
      {"\xc1z", r + "z"},           // overlong
      {"\xc3z", r + "z"},           // no continuation
      {"\xe0\x80\xaf", r + r + r},  // overlong
      {"\xe2\x82z", r + "z"},       // two of three bytes
      {"\xe2\x82\xe2\x82\xac", r + "\xe2\x82\xac"},
      {"\xed\xa0\x80", r + r + r},               // a surrogate
      {"\xed\x9f\xbf", "\xed\x9f\xbf"},          // U+D7FF
      {"\xee\x80\x80", "\xee\x80\x80"},          // U+E000
      {"\xf0\x80\x80\x80", r + r + r + r},       // overlong
      {"\xf0\x9f\x99z", r + "z"},                // three of four bytes
      {"\xf0\x90\x80\x80", "\xf0\x90\x80\x80"},  // U+10000
      {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},  // U+10FFFF
      {"\xf4\x90\x80\x80", r + r + r + r},       // above U+10FFFF
      {"\xf5\x80", r + r},
      {"\xfe\xff", r + r},
      {"a\0b"s, "a\0b"s},
      {"\xe2\x82", r},
      {"\xf0\x9f\x99\xf0\x9f", r + r},
  };
  for (const auto& [bytes, expected] : kCases) {
    EXPECT_EQ(DecodeWhole(bytes), expected) << ::testing::PrintToString(bytes);
  }
}

TEST(Utf8DecoderTest, MakesTheSameValidTextHoweverTheBytesAreCut) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes;
    for (int i = random() % 24; i > 0; --i) {
      // Mostly bytes that begin, continue or break characters.
      const char kinds[] = {
          'a',    '\x80', '\xbf', '\x9f', '\xc3',
          '\xe2', '\xed', '\xf0', '\xf4', static_cast<char>(random() % 256)};
      bytes += kinds[random() % std::size(kinds)];
    }
    Utf8Decoder decoder;
    std::string text;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = random() % 4;
      const std::string piece = decoder.Push(bytes.substr(at, size));
      EXPECT_EQ(FindInvalidUtf8(piece), std::nullopt);
      text += piece;
      at += size;
    }
    text += decoder.Flush();
    EXPECT_EQ(text, DecodeWhole(bytes)) << ::testing::PrintToString(bytes);
  }
}

TEST(Utf8Test, FindsTheFirstByteThatIsNotPartOfAWholeCharacter) {
  EXPECT_EQ(FindInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("a\xc3\xa9\xe2\x82\xac"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("ab\xff"), 2u);
  EXPECT_EQ(FindInvalidUtf8("\xc3\xa9\xe2\x82"), 2u);
  EXPECT_EQ(FindInvalidUtf8("\xed\xa0\x80"), 0u);
}

}  // namespace
}  // namespace sparseserve
