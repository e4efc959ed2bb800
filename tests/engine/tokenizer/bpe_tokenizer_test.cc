#include "engine/tokenizer/bpe_tokenizer.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/byte_level_vocabulary.h"

namespace sparseserve {
namespace {

using testing::ByteLevelVocabulary;
using ::testing::HasSubstr;
using Ids = std::vector<TokenId>;

constexpr TokenId kStart = 257;
constexpr TokenId kEnd = 258;

std::unique_ptr<BpeTokenizer> Create(const BpeVocabulary& vocabulary) {
  auto tokenizer = BpeTokenizer::Create(vocabulary);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

Ids Encode(const Tokenizer& tokenizer, std::string_view text,
           bool parse_special = false) {
  const auto tokens = tokenizer.Encode(text, parse_special);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  return tokens.value_or(Ids{-1});
}

TEST(BpeTokenizerTest, MergesTheBytesOfEachWord) {
  const auto tokenizer = Create(ByteLevelVocabulary({"t h", "th e", "Ġ the"}));
  EXPECT_EQ(Encode(*tokenizer, "the the"), (Ids{260, 261}));
  EXPECT_EQ(Encode(*tokenizer, "th é"), (Ids{259, ' ', 0xc3, 0xa9}));
  EXPECT_EQ(Encode(*tokenizer, ""), Ids{});
}

TEST(BpeTokenizerTest, NeverMergesAcrossWords) {
  // "a b" is the words "a" and " b": their letters never meet.
  const auto tokenizer = Create(ByteLevelVocabulary({"a Ġ", "a ."}));
  EXPECT_EQ(Encode(*tokenizer, "a b."), (Ids{'a', ' ', 'b', '.'}));
  EXPECT_EQ(Encode(*tokenizer, "a."), (Ids{'a', '.'}));
}

TEST(BpeTokenizerTest, SplitsByTheRuleOfTheVocabulary) {
  BpeVocabulary vocabulary = ByteLevelVocabulary({"1 2"});
  EXPECT_EQ(Encode(*Create(vocabulary), "12"), Ids{259});
  vocabulary.pre_split = PreSplit::kSmolLm;
  EXPECT_EQ(Encode(*Create(vocabulary), "12"), (Ids{'1', '2'}));
}

TEST(BpeTokenizerTest, ParsesSpecialTokensOnlyWhenAsked) {
  const auto tokenizer = Create(ByteLevelVocabulary({}));
  EXPECT_EQ(Encode(*tokenizer, "a<|im_end|>\n", true), (Ids{'a', kEnd, '\n'}));
  EXPECT_EQ(Encode(*tokenizer, "<|im_start|><|im_end|>", true),
            (Ids{kStart, kEnd}));
  const Ids ordinary = Encode(*tokenizer, "<|im_end|>", false);
  EXPECT_EQ(ordinary.size(), 10u);
  EXPECT_THAT(ordinary, ::testing::Each(::testing::Lt(256)));
}

TEST(BpeTokenizerTest, AlwaysFindsUserDefinedTokensLongestFirst) {
  BpeVocabulary vocabulary = ByteLevelVocabulary({});
  for (const char* added : {"<x>", "<x>y", "\u3000\u3000"}) {
    vocabulary.tokens.push_back(added);
    vocabulary.kinds.push_back(TokenKind::kUserDefined);
  }
  const auto tokenizer = Create(vocabulary);
  for (const bool parse_special : {false, true}) {
    EXPECT_EQ(Encode(*tokenizer, "a<x>yz<x>", parse_special),
              (Ids{'a', 260, 'z', 259}));
    EXPECT_EQ(Encode(*tokenizer, "\u3000\u3000", parse_special), Ids{261});
  }
  EXPECT_FALSE(tokenizer->IsSpecial(260));
  EXPECT_EQ(tokenizer->TokenBytes(261), "\u3000\u3000");
}

TEST(BpeTokenizerTest, NamesTheOffsetOfInvalidUtf8) {
  const auto tokenizer = Create(ByteLevelVocabulary({}));
  const auto tokens = tokenizer->Encode("ab\xe2\x82", false);
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokens.status().message()),
              HasSubstr("not valid UTF-8 at byte 2"));
}

TEST(BpeTokenizerTest, GivesBytesKindsAndEndsOfTokens) {
  const auto tokenizer = Create(ByteLevelVocabulary({"Ġ t"}));
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_EQ(tokenizer->TokenBytes(0xe2), "\xe2");
  EXPECT_EQ(tokenizer->TokenBytes(259), " t");
  EXPECT_EQ(tokenizer->TokenBytes(kEnd), "<|im_end|>");
  EXPECT_TRUE(tokenizer->IsSpecial(kEnd));
  EXPECT_FALSE(tokenizer->IsSpecial(259));
  EXPECT_EQ(tokenizer->end_tokens(), Ids{kEnd});
}

TEST(BpeTokenizerTest, LeavesOutBytesThatTheVocabularyHasNoTokenFor) {
  BpeVocabulary vocabulary = ByteLevelVocabulary({"a b"});
  vocabulary.tokens[4] = "unused";
  const auto tokenizer = Create(vocabulary);
  EXPECT_EQ(Encode(*tokenizer, "x\x04y"), (Ids{'x', 'y'}));
  EXPECT_EQ(Encode(*tokenizer, "\x04"), Ids{});
}

TEST(BpeTokenizerTest, KeepsTokensOutsideTheByteAlphabetAsTheyStand) {
  BpeVocabulary vocabulary = ByteLevelVocabulary({});
  vocabulary.tokens.push_back("€ 5");
  vocabulary.kinds.push_back(TokenKind::kNormal);
  EXPECT_EQ(Create(vocabulary)->TokenBytes(259), "€ 5");
}

TEST(BpeTokenizerTest, EncodesAMegabyteWord) {
  std::vector<std::string> merges;
  std::string run = "a";
  for (int i = 0; i < 5; ++i, run += run) merges.push_back(run + " " + run);
  const auto tokenizer = Create(ByteLevelVocabulary(merges));
  constexpr size_t kBytes = 1 << 20;
  EXPECT_EQ(Encode(*tokenizer, std::string(kBytes, 'a')),
            Ids(kBytes / 32, 259 + 4));
}

TEST(BpeTokenizerTest, RefusesMoreTokensThanTheLimit) {
  const auto tokenizer = Create(ByteLevelVocabulary({"a b", "ab c"}));
  struct Case {
    std::string text;
    int tokens;
  };
  for (const auto& [text, tokens] :
       std::vector<Case>{{"", 0},
                         {"abc", 1},
                         {"abcabcabc", 3},
                         {"acbacb", 6},
                         {"ab ab ab", 5},
                         {"<|im_end|>", 1},
                         {"<|im_end|><|im_end|>abcabc", 4}}) {
    EXPECT_EQ(tokenizer->Encode(text, true, tokens)->size(), tokens) << text;
    if (tokens == 0) continue;
    EXPECT_EQ(tokenizer->Encode(text, true, tokens - 1).status().code(),
              absl::StatusCode::kOutOfRange)
        << text;
  }
}

TEST(BpeTokenizerTest, TheLimitCountsOnlyBytesThatHaveTokens) {
  BpeVocabulary vocabulary = ByteLevelVocabulary({});
  vocabulary.tokens[4] = "no byte";
  vocabulary.tokens.push_back("\x04!");
  vocabulary.kinds.push_back(TokenKind::kUserDefined);
  EXPECT_EQ(Create(vocabulary)->Encode("x\x04\x04y", false, 2).value(),
            (Ids{'x', 'y'}));
}

struct BadVocabulary {
  std::string name;
  std::function<void(BpeVocabulary&)> spoil;
  std::string message;
};

class BadVocabularyTest : public ::testing::TestWithParam<BadVocabulary> {};

TEST_P(BadVocabularyTest, IsRefusedWithTheReason) {
  BpeVocabulary vocabulary = ByteLevelVocabulary({"a b", "ab c"});
  ASSERT_TRUE(BpeTokenizer::Create(vocabulary).ok());
  GetParam().spoil(vocabulary);
  const absl::Status status = BpeTokenizer::Create(vocabulary).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadVocabularyTest,
    ::testing::ValuesIn(std::vector<BadVocabulary>{
        {"Empty", [](BpeVocabulary& v) { v = {}; }, "of 0 tokens"},
        {"KindMissing", [](BpeVocabulary& v) { v.kinds.pop_back(); },
         "of 261 tokens has the kinds of 260"},
        {"TokenTwice", [](BpeVocabulary& v) { v.tokens[260] = "a"; },
         "token 260 repeats token 97, \"a\""},
        {"ByteMissing", [](BpeVocabulary& v) { v.tokens['~'] = "tilde"; },
         "no token for the byte 126"},
        {"ByteSpecial",
         [](BpeVocabulary& v) { v.kinds['a'] = TokenKind::kControl; },
         "no token for the byte 97"},
        {"MergeWithoutSpace", [](BpeVocabulary& v) { v.merges[1] = "abc"; },
         "merge 1, \"abc\", is not two tokens"},
        {"MergeOfThree", [](BpeVocabulary& v) { v.merges[1] = "a b c"; },
         "merge 1, \"a b c\", is not two tokens"},
        {"MergeWithoutLeft", [](BpeVocabulary& v) { v.merges[0] = " b"; },
         "merge 0"},
        {"MergeWithoutRight", [](BpeVocabulary& v) { v.merges[0] = "a "; },
         "merge 0"},
        {"MergeEmpty", [](BpeVocabulary& v) { v.merges[0] = ""; }, "merge 0"},
        {"MergePartUnknown", [](BpeVocabulary& v) { v.merges[1] = "xyz c"; },
         "merge 1, \"xyz c\": a part or the result"},
        {"MergeResultUnknown", [](BpeVocabulary& v) { v.merges[1] = "b c"; },
         "merge 1, \"b c\": a part or the result"},
        {"MergeToSpecial",
         [](BpeVocabulary& v) { v.kinds[259] = TokenKind::kControl; },
         "merge 0, \"a b\": a part or the result is no ordinary token"},
        {"MergeTwice", [](BpeVocabulary& v) { v.merges[1] = "a b"; },
         "merge 1, \"a b\", occurs twice"},
        {"EndNegative", [](BpeVocabulary& v) { v.end_tokens = {-1}; },
         "end token -1 is not within 0 and 260"},
        {"EndTooLarge", [](BpeVocabulary& v) { v.end_tokens = {261}; },
         "end token 261 is not within 0 and 260"},
        {"SpecialEmpty", [](BpeVocabulary& v) { v.tokens[256] = ""; },
         "token 256, special or user-defined, has 0 bytes"},
        {"SpecialTooLong",
         [](BpeVocabulary& v) { v.tokens[256] = std::string(257, 'x'); },
         "token 256, special or user-defined, has 257 bytes"},
    }),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sparseserve
