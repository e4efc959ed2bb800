#include "client/load/prompt_source.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

// A token for each byte, behind one that begins every text.
absl::StatusOr<std::vector<int32_t>> Bytes(absl::string_view text) {
  std::vector<int32_t> ids = {999};
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

PlannedRequest Request(int64_t index, int prompt_tokens, int prefix = 0) {
  return {.index = index, .prompt_tokens = prompt_tokens, .prefix = prefix};
}

size_t CommonPrefix(const std::vector<int32_t>& a,
                    const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
         a.begin();
}

// 0, 1, 2 … over 120 bytes that all differ.
std::string Alphabet() {
  std::string text(120, '\0');
  std::iota(text.begin(), text.end(), 1);
  return text;
}

TEST(PromptSourceTest, PromptsHaveExactLengthsAndBeginAsTextsDo) {
  const auto source = PromptSource::Create(Alphabet(), Bytes, {});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->text_tokens(), 120);
  for (const int tokens : {1, 2, 63, 64, 120, 121, 1000}) {
    const auto prompt = source->Prompt(Request(7, tokens));
    EXPECT_EQ(prompt.size(), static_cast<size_t>(tokens));
    if (tokens > 1) EXPECT_EQ(prompt[0], 999);
  }
}

TEST(PromptSourceTest, PromptsShareNothingButTheBeginning) {
  const auto source = PromptSource::Create(Alphabet(), Bytes, {});
  ASSERT_TRUE(source.ok());
  std::set<int32_t> second;
  for (int i = 0; i < 120; ++i) {
    second.insert(source->Prompt(Request(i, 5))[1]);
  }
  EXPECT_EQ(second.size(), 120u);
}

TEST(PromptSourceTest, PrefixesAreSharedAndDiffer) {
  const auto source = PromptSource::Create(
      Alphabet(), Bytes, {.prefix_tokens = 20, .prefixes = 3});
  ASSERT_TRUE(source.ok());
  const auto prompt = [&source](int index, int prefix) {
    return source->Prompt(Request(index, 40, prefix));
  };
  EXPECT_EQ(CommonPrefix(prompt(1, 0), prompt(2, 0)), 20u);
  EXPECT_EQ(CommonPrefix(prompt(1, 2), prompt(2, 2)), 20u);
  EXPECT_EQ(CommonPrefix(prompt(1, 0), prompt(1, 1)), 1u);
  EXPECT_EQ(CommonPrefix(prompt(1, 1), prompt(1, 2)), 1u);
}

TEST(PromptSourceTest, APromptAsShortAsThePrefixKeepsATokenOfItsOwn) {
  const auto source = PromptSource::Create(
      Alphabet(), Bytes, {.prefix_tokens = 20, .prefixes = 1});
  ASSERT_TRUE(source.ok());
  const auto a = source->Prompt(Request(1, 15));
  const auto b = source->Prompt(Request(2, 15));
  EXPECT_EQ(a.size(), 15u);
  EXPECT_EQ(CommonPrefix(a, b), 14u);
}

TEST(PromptSourceTest, LongTextsAreTokenizedInPiecesOfWholeCharacters) {
  std::string text;
  while (text.size() < 100'000) text += "a€";
  size_t longest = 0;
  const auto tokenize = [&longest](absl::string_view piece) {
    longest = std::max(longest, piece.size());
    // Whole: neither begins nor ends within the three bytes of the sign.
    EXPECT_NE(static_cast<unsigned char>(piece[0]) & 0xc0, 0x80);
    EXPECT_NE(static_cast<unsigned char>(piece.back()), 0x82);
    return Bytes(piece);
  };
  const auto source = PromptSource::Create(text, tokenize, {});
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(source->text_tokens(), static_cast<int64_t>(text.size()));
  EXPECT_LT(longest, 65'536u);
}

TEST(PromptSourceTest, SaysWhatATextLacks) {
  const auto source = PromptSource::Create(
      "too short", Bytes, {.prefix_tokens = 20, .prefixes = 2});
  EXPECT_THAT(std::string(source.status().message()),
              HasSubstr("has 9 tokens, which is less than the 40"));
  EXPECT_FALSE(PromptSource::Create("", Bytes, {}).ok());
}

TEST(PromptSourceTest, PassesOnWhatTheServerSays) {
  const auto fails =
      [](absl::string_view) -> absl::StatusOr<std::vector<int32_t>> {
    return absl::UnavailableError("draining");
  };
  EXPECT_EQ(PromptSource::Create("text", fails, {}).status(),
            absl::UnavailableError("draining"));
}

TEST(WordTextTest, IsLongEnoughAndFollowsItsSeed) {
  EXPECT_GE(WordText(1000, 1).size(), 1000u);
  EXPECT_EQ(WordText(1000, 1), WordText(1000, 1));
  EXPECT_NE(WordText(1000, 1), WordText(1000, 2));
}

}  // namespace
}  // namespace sparseserve
