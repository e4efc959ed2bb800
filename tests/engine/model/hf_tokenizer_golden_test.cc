// Compares with what independent software made of the same texts: see
// tests/golden/README.md.

#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/hf_tokenizer.h"
#include "engine/tokenizer/utf8_decoder.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using nlohmann::json;
using Ids = std::vector<TokenId>;

const std::string kFolder = "tests/golden/tokenizer_families/";

std::vector<std::string> ReadLines(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// The texts of the default model's goldens once each, of at most 60 bytes but
// for the first.
std::vector<std::string> ReadTexts() {
  std::vector<std::string> texts;
  std::set<std::string> seen;
  for (const auto& line : ReadLines("tests/golden/tokenizer/texts.jsonl")) {
    const std::string text = json::parse(line)["text"];
    if (!seen.insert(text).second) continue;
    if (seen.size() <= 60 || text.size() <= 60) texts.push_back(text);
  }
  return texts;
}

// Two digits of base 64 are an id.
Ids Unpack(std::string_view packed) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  Ids ids;
  for (size_t i = 0; i + 1 < packed.size(); i += 2) {
    ids.push_back(static_cast<TokenId>(kDigits.find(packed[i]) * 64 +
                                       kDigits.find(packed[i + 1])));
  }
  return ids;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class HfTokenizerGoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto tokenizer = LoadHfTokenizer(ReadFile(Path("tokenizer.json")), "", {});
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  static std::string Path(const std::string& name) {
    return kFolder + GetParam() + "/" + name;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(HfTokenizerGoldenTest, EncodesEveryTextAsTheReference) {
  const std::vector<std::string> texts = ReadTexts();
  const std::vector<std::string> lines = ReadLines(Path("ids.txt"));
  ASSERT_EQ(lines.size(), texts.size());
  ASSERT_GE(texts.size(), 2000);
  size_t equal = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = tokenizer_->Encode(texts[i], /*parse_special=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, Unpack(lines[i])) << json(texts[i]);
    equal += *ids == Unpack(lines[i]);
  }
  std::printf("%s: %zu of %zu strings equal\n", GetParam(), equal,
              texts.size());
}

TEST_P(HfTokenizerGoldenTest, FindsAddedTokensAndBeginsAsTheReference) {
  const std::vector<std::string> lines = ReadLines(Path("marked.jsonl"));
  ASSERT_GE(lines.size(), 50);
  size_t equal = 0;
  for (const std::string& line : lines) {
    const json row = json::parse(line);
    const auto ids = tokenizer_->EncodePrompt(row["text"].get<std::string>(),
                                              /*parse_special=*/true, 1000);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, row["ids"].get<Ids>()) << row["text"];
    equal += *ids == row["ids"].get<Ids>();
  }
  std::printf("%s: %zu of %zu strings with added tokens equal\n", GetParam(),
              equal, lines.size());
}

TEST_P(HfTokenizerGoldenTest, DecodesAsTheReference) {
  const std::vector<std::string> lines = ReadLines(Path("decoded.jsonl"));
  ASSERT_GE(lines.size(), 100);
  size_t equal = 0;
  for (const std::string& line : lines) {
    const json row = json::parse(line);
    Utf8Decoder decoder;
    std::string text;
    for (const TokenId token : row["ids"].get<Ids>()) {
      if (tokenizer_->IsSpecial(token)) continue;
      text += decoder.Push(tokenizer_->TokenBytes(token));
    }
    text += decoder.Flush();
    EXPECT_EQ(text, row["text"].get<std::string>()) << row;
    equal += text == row["text"].get<std::string>();
  }
  std::printf("%s: %zu of %zu decoded texts equal\n", GetParam(), equal,
              lines.size());
}

INSTANTIATE_TEST_SUITE_P(Families, HfTokenizerGoldenTest,
                         ::testing::Values("gpt2", "llama3", "qwen2"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sparseserve
