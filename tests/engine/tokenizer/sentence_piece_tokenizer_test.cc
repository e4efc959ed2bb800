#include "engine/tokenizer/sentence_piece_tokenizer.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/sentence_piece_vocabulary.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::SentencePieceVocabularyOf;
using Ids = std::vector<TokenId>;

constexpr TokenId kBegin = 256;
constexpr TokenId kMark = 257;

std::unique_ptr<SentencePieceTokenizer> Create(
    const SentencePieceVocabulary& vocabulary) {
  auto tokenizer = SentencePieceTokenizer::Create(vocabulary);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

Ids Encode(const Tokenizer& tokenizer, std::string_view text,
           bool parse_special = false) {
  const auto tokens = tokenizer.Encode(text, parse_special);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  return tokens.value_or(Ids{-1});
}

TEST(SentencePieceTokenizerTest, MergesThePairOfTheBestScoreFirst) {
  // 258 a, 259 b, 260 c, 261 bc, 262 ab.
  const auto tokenizer =
      Create(SentencePieceVocabularyOf({"a", "b", "c", "bc", "ab"}));
  EXPECT_EQ(Encode(*tokenizer, "abc"), (Ids{258, 261}));
  EXPECT_EQ(Encode(*tokenizer, "abab"), (Ids{262, 262}));
}

TEST(SentencePieceTokenizerTest, MergesTheLeftmostOfEqualScores) {
  SentencePieceVocabulary vocabulary =
      SentencePieceVocabularyOf({"a", "b", "c", "bc", "ab"});
  vocabulary.scores[261] = vocabulary.scores[262];
  EXPECT_EQ(Encode(*Create(vocabulary), "abc"), (Ids{262, 260}));
}

TEST(SentencePieceTokenizerTest, MergesAcrossWords) {
  const auto tokenizer =
      Create(SentencePieceVocabularyOf({"a", "a\u2581", "a\u2581a"}));
  EXPECT_EQ(Encode(*tokenizer, "a a"), Ids{260});
}

TEST(SentencePieceTokenizerTest, FallsBackToTheBytesOfACharacter) {
  const auto tokenizer = Create(SentencePieceVocabularyOf({"a"}));
  EXPECT_EQ(Encode(*tokenizer, "a\u20ac\n"),
            (Ids{258, 0xe2, 0x82, 0xac, '\n'}));
  EXPECT_EQ(tokenizer->TokenBytes(0x82), "\x82");
}

TEST(SentencePieceTokenizerTest, PutsASpaceBeforeTextsWhereItIsTold) {
  using Where = SpacePrefix::Where;
  struct Case {
    SpacePrefix prefix;
    Ids plain;          // a
    Ids spaced;         // " a"
    Ids after_special;  // "<s>a"
    Ids continued;      // "a" after a token
  };
  const Case kCases[] = {
      {{Where::kNowhere}, {258}, {kMark, 258}, {kBegin, 258}, {258}},
      {{Where::kTextStart},
       {kMark, 258},
       {kMark, kMark, 258},
       {kBegin, 258},
       {258}},
      {{Where::kAfterAddedTokens},
       {kMark, 258},
       {kMark, kMark, 258},
       {kBegin, kMark, 258},
       {kMark, 258}},
      {{Where::kTextStart, false},
       {kMark, 258},
       {kMark, 258},
       {kBegin, 258},
       {258}}};
  for (const Case& row : kCases) {
    SentencePieceVocabulary vocabulary = SentencePieceVocabularyOf({"a"});
    vocabulary.prefix = row.prefix;
    const auto tokenizer = Create(vocabulary);
    EXPECT_EQ(Encode(*tokenizer, "a"), row.plain);
    EXPECT_EQ(Encode(*tokenizer, " a"), row.spaced);
    EXPECT_EQ(Encode(*tokenizer, "<s>a", true), row.after_special);
    EXPECT_EQ(tokenizer->EncodeContinuation("a", 9).value(), row.continued);
    EXPECT_EQ(Encode(*tokenizer, ""), Ids{});
  }
}

TEST(SentencePieceTokenizerTest, DropsTheFirstSpaceOfWholeTextsOnly) {
  SentencePieceVocabulary vocabulary = SentencePieceVocabularyOf({"\u2581a"});
  const auto keeps = Create(vocabulary);
  vocabulary.drops_first_space = true;
  const auto drops = Create(vocabulary);
  EXPECT_EQ(keeps->Decode({258, 258}), " a a");
  EXPECT_EQ(drops->Decode({258, 258}), "a a");
  EXPECT_EQ(drops->Decode({kMark, 258}), " a");
  EXPECT_EQ(drops->Decode({kBegin, 258}), "<s> a");
  EXPECT_EQ(drops->Decode({}), "");
  EXPECT_EQ(drops->TokenBytes(258), " a");
}

TEST(SentencePieceTokenizerTest, TakesSpecialTokensForTextUnlessAsked) {
  const auto tokenizer =
      Create(SentencePieceVocabularyOf({"<", "s", ">", "<s", "<s>x"}));
  EXPECT_EQ(Encode(*tokenizer, "<s>", true), Ids{kBegin});
  EXPECT_EQ(Encode(*tokenizer, "<s>"), (Ids{261, 260}));
  EXPECT_TRUE(tokenizer->IsSpecial(kBegin));
  EXPECT_EQ(tokenizer->EncodeContinuation("<s>", 9).value(), (Ids{261, 260}));
}

TEST(SentencePieceTokenizerTest, NeverMakesUnusedTokens) {
  SentencePieceVocabulary vocabulary = SentencePieceVocabularyOf({"a", "aa"});
  EXPECT_EQ(Encode(*Create(vocabulary), "aa"), Ids{259});
  vocabulary.kinds[259] = TokenKind::kUnused;
  EXPECT_EQ(Encode(*Create(vocabulary), "aa"), (Ids{258, 258}));
}

TEST(SentencePieceTokenizerTest, EncodesAMegabyte) {
  std::vector<std::string> tokens;
  for (std::string run = "a"; run.size() <= 32; run += run) {
    tokens.push_back(run);
  }
  constexpr size_t kBytes = 1 << 20;
  EXPECT_EQ(Encode(*Create(SentencePieceVocabularyOf(tokens)),
                   std::string(kBytes, 'a')),
            Ids(kBytes / 32, kMark + 6));
}

TEST(SentencePieceTokenizerTest, RefusesMoreTokensThanTheLimit) {
  SentencePieceVocabulary vocabulary =
      SentencePieceVocabularyOf({"a", "\u2581a", "\u2581\u2581"});
  vocabulary.prefix.where = SpacePrefix::Where::kTextStart;
  const auto tokenizer = Create(vocabulary);
  for (const char* text :
       {"a", "a a a", "   ", "\u2581\u2581", "x\u20ac", "<s>a", "<s><s>"}) {
    const auto all = tokenizer->Encode(text, true);
    ASSERT_TRUE(all.ok()) << all.status();
    const int64_t tokens = static_cast<int64_t>(all->size());
    EXPECT_EQ(tokenizer->Encode(text, true, tokens).value(), *all) << text;
    for (int64_t limit = 0; limit < tokens; ++limit) {
      EXPECT_TRUE(
          absl::IsOutOfRange(tokenizer->Encode(text, true, limit).status()))
          << text;
    }
  }
}

struct BadVocabulary {
  std::string name;
  std::function<void(SentencePieceVocabulary&)> spoil;
  std::string message;
};

class BadSentencePieceTest : public ::testing::TestWithParam<BadVocabulary> {};

TEST_P(BadSentencePieceTest, IsRefusedWithTheReason) {
  SentencePieceVocabulary vocabulary =
      SentencePieceVocabularyOf({"a", "b", "ab"});
  GetParam().spoil(vocabulary);
  const absl::Status status =
      SentencePieceTokenizer::Create(vocabulary).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadSentencePieceTest,
    ::testing::ValuesIn(std::vector<BadVocabulary>{
        {"ByteMissing",
         [](SentencePieceVocabulary& v) { v.tokens[0x41] = "x"; },
         "no token <0x41>"},
        {"ByteSpecial",
         [](SentencePieceVocabulary& v) {
           v.kinds[0x41] = TokenKind::kControl;
         },
         "no token <0x41>"},
        {"ScoreMissing",
         [](SentencePieceVocabulary& v) { v.scores.pop_back(); },
         "of 261 tokens has the scores of 260"},
        {"ScoreNan",
         [](SentencePieceVocabulary& v) { v.scores[258] = std::nanf(""); },
         "token 258 has the score nan"},
        {"TokenTooLong",
         [](SentencePieceVocabulary& v) {
           v.tokens[260] = std::string(513, 'a');
         },
         "token 260 has 513 bytes, at most 512"},
        {"TokenTwice", [](SentencePieceVocabulary& v) { v.tokens[260] = "a"; },
         "token 260 repeats token 258"},
        {"BeginTooLarge",
         [](SentencePieceVocabulary& v) { v.begin_token = 261; },
         "begin token 261 is not within 0 and 260"},
        {"MergeUnknown",
         [](SentencePieceVocabulary& v) {
           v.scores.clear();
           v.merges = {"b a"};
         },
         "merge 0, \"b a\""}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sparseserve
