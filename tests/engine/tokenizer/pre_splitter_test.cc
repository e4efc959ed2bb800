#include "engine/tokenizer/pre_splitter.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Words = std::vector<std::string>;

Words Split(PreSplit rule, std::string_view text) {
  Words words;
  const absl::Status status =
      PreSplitter(rule).Split(text, [&](std::string_view word) {
        words.emplace_back(word);
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  return words;
}

TEST(PreSplitterTest, SplitsAsGpt2Does) {
  const std::pair<std::string, Words> kCases[] = {
      {"", {}},
      {"Hello world!", {"Hello", " world", "!"}},
      {"I'll say it's Don't", {"I", "'ll", " say", " it", "'s", " Don", "'t"}},
      {"'sa 'S", {"'s", "a", " '", "S"}},
      {"a  b", {"a", " ", " b"}},
      {"a   b", {"a", "  ", " b"}},
      {"a\nb", {"a", "\n", "b"}},
      {"a\n\nb", {"a", "\n", "\n", "b"}},
      {"a \n b", {"a", " \n", " b"}},
      {"a  ", {"a", "  "}},
      {"  ", {"  "}},
      {"x 12345 y", {"x", " 12345", " y"}},
      {"x  12", {"x", " ", " 12"}},
      {"½²Ⅷ٣", {"½²Ⅷ٣"}},
      {"a_b-c...", {"a", "_", "b", "-", "c", "..."}},
      {"naïve 日本語。", {"naïve", " 日本語", "。"}},
      {"a\u00a0b", {"a", "\u00a0", "b"}},
      {"a\u3000\u3000b", {"a", "\u3000", "\u3000", "b"}},
      {"a\u180eb", {"a", "\u180e", "b"}},
      // U+180E is not white space: a space before it belongs to it.
      {"a \u180e", {"a", " \u180e"}},
      {"a\u0085\u0085b", {"a", "\u0085", "\u0085", "b"}},
      {"e\u0301", {"e", "\u0301"}},
  };
  for (const auto& [text, expected] : kCases) {
    EXPECT_EQ(Split(PreSplit::kGpt2, text), expected) << text;
  }
}

TEST(PreSplitterTest, StopsWhenItIsTold) {
  Words words;
  const absl::Status status =
      PreSplitter(PreSplit::kGpt2).Split("a b c", [&](std::string_view word) {
        words.emplace_back(word);
        return words.size() < 2;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(words, (Words{"a", " b"}));
}

TEST(PreSplitterTest, SetsEveryNumericCharacterApartAsSmolLmDoes) {
  const std::pair<std::string, Words> kCases[] = {
      {"x 123", {"x", " ", "1", "2", "3"}},
      // White space before a number ends its piece, so none is left over.
      {"x  1", {"x", "  ", "1"}},
      {"x   1 y", {"x", "   ", "1", " y"}},
      {"½²Ⅷ٣", {"½", "²", "Ⅷ", "٣"}},
      {"3's", {"3", "'s"}},
      {"'3s", {"'", "3", "s"}},
      {"v2.0-rc1", {"v", "2", ".", "0", "-", "rc", "1"}},
      {"一二", {"一二"}},  // letters to Unicode
      {"𝟘𐒠", {"𝟘", "𐒠"}},
      {"Hello world!", {"Hello", " world", "!"}},
      {"a  b \n", {"a", " ", " b", " \n"}},
  };
  for (const auto& [text, expected] : kCases) {
    EXPECT_EQ(Split(PreSplit::kSmolLm, text), expected) << text;
  }
}

TEST(PreSplitterTest, SplitsAsLlama3Does) {
  const std::pair<std::string, Words> kCases[] = {
      {"Hello world!", {"Hello", " world", "!"}},
      {"I'll DON'T it'S", {"I", "'ll", " DON", "'T", " it", "'S"}},
      // The long s is an s in any case.
      {"a'\u017fb", {"a", "'\u017f", "b"}},
      {"12345678", {"123", "456", "78"}},
      {"x 12", {"x", " ", "12"}},
      {"½²Ⅷ٣", {"½²Ⅷ", "٣"}},
      {"(abc) -x_y", {"(abc", ")", " -", "x", "_y"}},
      {"!!\n\nx", {"!!\n\n", "x"}},
      {"a \n\n  \r\n  b", {"a", " \n\n  \r\n", " ", " b"}},
      {"a  b", {"a", " ", " b"}},
      {"a   1", {"a", "  ", " ", "1"}},
      {"\tx \t", {"\tx", " \t"}},
      {"\nx", {"\n", "x"}},
      {"e\u0301x", {"e", "\u0301x"}},
      {"日本語。です", {"日本語", "。です"}},
      {"a\u0085b", {"a", "\u0085b"}},
  };
  for (const auto& [text, expected] : kCases) {
    EXPECT_EQ(Split(PreSplit::kLlama3, text), expected) << text;
  }
}

TEST(PreSplitterTest, SetsNumbersApartAsQwen2Does) {
  EXPECT_EQ(Split(PreSplit::kQwen2, "x 123 I'M\n\n y"),
            (Words{"x", " ", "1", "2", "3", " I", "'M", "\n\n", " y"}));
}

TEST(PreSplitterTest, TakesMixedWhiteSpaceInFewPieces) {
  constexpr size_t kCount = 300000;
  std::string lines;
  for (size_t i = 0; i < kCount; ++i) lines += i % 2 == 0 ? " " : "\n";
  const std::string spaces(kCount, ' ');
  for (const PreSplit rule : {PreSplit::kLlama3, PreSplit::kQwen2}) {
    EXPECT_EQ(Split(rule, lines + "x"), (Words{lines, "x"}));
    EXPECT_EQ(Split(rule, "\n" + spaces), (Words{"\n", spaces}));
    EXPECT_EQ(Split(rule, spaces + "x"), (Words{spaces.substr(1), " x"}));
    EXPECT_EQ(Split(rule, "!" + lines).size(), 2);
  }
}

TEST(PreSplitterTest, TakesOneLongRunOfEveryKindInOnePiece) {
  constexpr size_t kCount = 300000;
  for (const PreSplit rule : {PreSplit::kGpt2, PreSplit::kSmolLm,
                              PreSplit::kLlama3, PreSplit::kQwen2}) {
    for (const char* unit : {"a", " ", "\n", "=", "'", "é", "\u3000", "€"}) {
      std::string text;
      for (size_t i = 0; i < kCount; ++i) text += unit;
      EXPECT_EQ(Split(rule, text), Words{text}) << unit;
    }
    const std::string spaces(kCount, ' ');
    EXPECT_EQ(Split(rule, spaces + "x"), (Words{spaces.substr(1), " x"}));
  }
}

TEST(PreSplitterTest, KeepsEveryByteOfAText) {
  std::string text;
  for (int code = 1; code < 0x3000; ++code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xc0 | (code >> 6));
      text += static_cast<char>(0x80 | (code & 0x3f));
    } else {
      text += static_cast<char>(0xe0 | (code >> 12));
      text += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
      text += static_cast<char>(0x80 | (code & 0x3f));
    }
  }
  for (const PreSplit rule : {PreSplit::kGpt2, PreSplit::kSmolLm,
                              PreSplit::kLlama3, PreSplit::kQwen2}) {
    std::string joined;
    for (const std::string& word : Split(rule, text)) joined += word;
    EXPECT_EQ(joined, text);
  }
}

}  // namespace
}  // namespace sparseserve
