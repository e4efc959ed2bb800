#include "server/scheduling/output_text.h"

#include <random>
#include <string>
#include <vector>

#include "engine/tokenizer/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_tokenizer.h"

namespace sparseserve {
namespace {

using testing::FakeTokenizer;

struct Row {
  std::string name;
  std::vector<std::string> stops;
  std::vector<std::string> tokens;
  // What each token makes certain; if the last stops the text, it ends there.
  std::vector<std::string> pieces;
  std::string flush;    // if nothing stopped it
  std::string matched;  // if something did
};

class OutputTextTableTest : public ::testing::TestWithParam<Row> {};

TEST_P(OutputTextTableTest, GivesOutWhatIsCertain) {
  const Row& row = GetParam();
  const FakeTokenizer tokenizer(row.tokens);
  OutputText text(tokenizer, row.stops);
  std::vector<std::string> pieces;
  for (size_t i = 0; i < row.tokens.size() && !text.stopped(); ++i) {
    pieces.push_back(text.Append(
        FakeTokenizer::kFirstPiece + static_cast<TokenId>(i), true));
  }
  EXPECT_THAT(pieces, ::testing::ElementsAreArray(row.pieces));
  ASSERT_EQ(text.stopped(), !row.matched.empty());
  if (text.stopped()) {
    EXPECT_EQ(text.matched_stop_string(), row.matched);
  } else {
    EXPECT_EQ(text.Flush(), row.flush);
  }
}

const Row kRows[] = {
    {"PassesTextWithoutStops", {}, {"Hi", " you"}, {"Hi", " you"}},
    {"HoldsAnIncompleteCharacter",
     {},
     {"a\xe2\x82", "\xac", "b"},
     {"a", "\xe2\x82\xac", "b"}},
    {"FlushesAnIncompleteCharacterAsReplacement",
     {},
     {"a\xf0\x9f\x98"},
     {"a"},
     "\xef\xbf\xbd"},
    {"ReplacesBytesThatBeginNoCharacter",
     {},
     {"a\xff", "b"},
     {"a\xef\xbf\xbd", "b"}},
    {"StopsInsideOneToken", {"END"}, {"one END two"}, {"one "}, "", "END"},
    {"StopsAcrossTokens",
     {"\n\nUser:"},
     {"Hi\n", "\nUs", "er: no"},
     {"Hi", "", ""},
     "",
     "\n\nUser:"},
    {"GivesOutWhatTurnedOutToBeNoStop",
     {"abcd"},
     {"xab", "c", "x"},
     {"x", "", "abcx"}},
    {"FlushesWhatCouldHaveBeenAStop", {"abcd"}, {"xabc"}, {"x"}, "abc"},
    {"KeepsHoldingTheTailOfAFailedCandidate",
     {"aab"},
     {"aa", "a", "b!"},
     {"", "a", ""},
     "",
     "aab"},
    {"FirstCompleteCandidateWins",
     {"abcd", "bc"},
     {"a", "b", "c", "d"},
     {"", "", "a"},
     "",
     "bc"},
    {"FirstCompleteCandidateWinsInsideOneToken",
     {"abcd", "bc"},
     {"abcd"},
     {"a"},
     "",
     "bc"},
    {"LongestOfThoseCompleteTogetherWins",
     {"c", "abc", "bc"},
     {"xab", "c"},
     {"x", ""},
     "",
     "abc"},
    {"LaterCandidateWinsOverOneThatFailed",
     {"abx", "bcd"},
     {"ab", "cd"},
     {"", "a"},
     "",
     "bcd"},
    {"StopsAtMultiByteCharacterSplitBetweenTokens",
     {"\xe2\x82\xac"},
     {"1 \xe2", "\x82", "\xac 2"},
     {"1 ", "", ""},
     "",
     "\xe2\x82\xac"},
    {"HoldsWholeCharactersOfAMultiByteStop",
     {"\xc3\xa9\xc3\xa8"},
     {"\xc3\xa9", "\xc3\xa9", "x"},
     {"", "\xc3\xa9", "\xc3\xa9x"}},
    {"StopAtTheVeryBeginningLeavesNoText", {"Hi"}, {"Hi"}, {""}, "", "Hi"},
};

INSTANTIATE_TEST_SUITE_P(Table, OutputTextTableTest, ::testing::ValuesIn(kRows),
                         [](const auto& info) { return info.param.name; });

TEST(OutputTextTest, DoesNotShowSpecialTokens) {
  const FakeTokenizer tokenizer;
  const std::vector<std::string> stops = {"<end>"};
  OutputText text(tokenizer, stops);
  EXPECT_EQ(text.Append('a', true), "a");
  EXPECT_EQ(text.Append(FakeTokenizer::kEndToken, true), "");
  EXPECT_EQ(text.Append('b', true), "b");
  EXPECT_FALSE(text.stopped());
}

TEST(OutputTextTest, StopCompleteBeforeItCountsIsOrdinaryText) {
  const FakeTokenizer tokenizer;
  const std::vector<std::string> stops = {"aa"};
  OutputText text(tokenizer, stops);
  EXPECT_EQ(text.Append('a', false), "");
  EXPECT_EQ(text.Append('a', false), "a");  // the second may begin another
  EXPECT_EQ(text.Append('b', true), "ab");
  EXPECT_EQ(text.Append('a', true), "");
  EXPECT_EQ(text.Append('a', true), "");
  EXPECT_TRUE(text.stopped());
}

TEST(OutputTextTest, StopBegunBeforeItCountsMayEndAfter) {
  const FakeTokenizer tokenizer;
  const std::vector<std::string> stops = {"ab"};
  OutputText text(tokenizer, stops);
  EXPECT_EQ(text.Append('a', false), "");
  EXPECT_EQ(text.Append('b', true), "");
  EXPECT_TRUE(text.stopped());
}

// Bytes with characters of every length, broken ones, and stop letters.
std::string RandomBytes(std::mt19937& random) {
  static const std::string kParts[] = {
      "a",    "b",       "ab", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
      "\x80", "\xf0\x9f"};
  std::string bytes;
  for (int i = 0; i < 12; ++i) bytes += kParts[random() % std::size(kParts)];
  return bytes;
}

TEST(OutputTextTest, TextDoesNotDependOnTokenBordersAndIsAlwaysValid) {
  std::mt19937 random(5);
  const std::vector<std::string> candidates = {"abab",
                                               "ba\xc3\xa9",
                                               "\xe2\x82\xac\xe2\x82\xac",
                                               "bb",
                                               "aab",
                                               "\xef\xbf\xbd\xef\xbf\xbd",
                                               "\xf0\x9f\x98\x80"
                                               "b"};
  for (int round = 0; round < 400; ++round) {
    const std::vector<std::string> stops = {
        candidates[random() % candidates.size()],
        candidates[random() % candidates.size()]};
    const std::string bytes = RandomBytes(random);
    std::vector<std::string> texts;
    for (int split = 0; split < 3; ++split) {
      std::vector<std::string> tokens;
      for (size_t at = 0; at < bytes.size(); at += tokens.back().size()) {
        tokens.push_back(bytes.substr(at, split == 0   ? 1
                                          : split == 1 ? 100
                                                       : 1 + random() % 5));
      }
      const FakeTokenizer tokenizer(tokens);
      OutputText text(tokenizer, stops);
      std::string joined;
      for (size_t i = 0; i < tokens.size() && !text.stopped(); ++i) {
        const std::string piece = text.Append(
            FakeTokenizer::kFirstPiece + static_cast<TokenId>(i), true);
        ASSERT_EQ(FindInvalidUtf8(piece), std::nullopt);
        joined += piece;
      }
      if (!text.stopped()) joined += text.Flush();
      ASSERT_EQ(FindInvalidUtf8(joined), std::nullopt);
      for (const std::string& stop : stops) {
        // The replacement for a tail cut short comes after all matching.
        if (stop.starts_with("\xef")) continue;
        ASSERT_EQ(joined.find(stop), std::string::npos) << joined;
      }
      texts.push_back(joined);
    }
    ASSERT_EQ(texts[0], texts[1]);
    ASSERT_EQ(texts[0], texts[2]);
  }
}

}  // namespace
}  // namespace sparseserve
