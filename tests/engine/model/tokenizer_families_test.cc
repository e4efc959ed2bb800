// Compares with what independent software made of the same texts: see
// tests/golden/README.md.

#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/gguf_file.h"
#include "engine/model/gguf_tokenizer.h"
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

// The ids of every text, as `lines` hold them: "=" stands for the base's.
std::vector<Ids> UnpackLines(const std::vector<std::string>& lines,
                             const std::vector<std::string>& base) {
  std::vector<Ids> ids;
  for (size_t i = 0; i < lines.size(); ++i) {
    ids.push_back(Unpack(lines[i] == "=" ? base.at(i) : lines[i]));
  }
  return ids;
}

// Encodes every text and counts those with the reference's ids.
void CompareIds(const Tokenizer& tokenizer, const std::vector<Ids>& expected,
                const std::string& name) {
  const std::vector<std::string> texts = ReadTexts();
  ASSERT_EQ(expected.size(), texts.size());
  ASSERT_GE(texts.size(), 2000);
  size_t equal = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = tokenizer.Encode(texts[i], /*parse_special=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected[i]) << json(texts[i]);
    equal += *ids == expected[i];
  }
  std::printf("%s: %zu of %zu strings equal\n", name.c_str(), equal,
              texts.size());
}

// Decodes the ids of every row and counts those with the reference's text.
void CompareTexts(const Tokenizer& tokenizer,
                  const std::vector<std::string>& lines,
                  const std::string& name) {
  ASSERT_GE(lines.size(), 80);
  size_t equal = 0;
  for (const std::string& line : lines) {
    const json row = json::parse(line);
    Ids ids = row["ids"].get<Ids>();
    std::erase_if(ids, [&](TokenId id) { return tokenizer.IsSpecial(id); });
    Utf8Decoder decoder;
    const std::string text = decoder.Push(tokenizer.Decode(ids));
    const bool matches = text + decoder.Flush() == row["text"];
    EXPECT_TRUE(matches) << row << " became " << json(text);
    equal += matches;
  }
  std::printf("%s: %zu of %zu decoded texts equal\n", name.c_str(), equal,
              lines.size());
}

json ReadDocument(const std::string& name, const std::string& base) {
  const json own = json::parse(ReadFile(kFolder + name + "/tokenizer.json"));
  if (base.empty()) return own;
  json whole = json::parse(ReadFile(kFolder + base + "/tokenizer.json"));
  whole.merge_patch(own);
  return whole;
}

struct Family {
  std::string name;
  // Whose ids "=" stands for, and whose tokenizer.json its own is merged into;
  // empty if none.
  std::string base_ids;
  std::string base_document;
};

class HfTokenizerGoldenTest : public ::testing::TestWithParam<Family> {
 protected:
  void SetUp() override {
    auto tokenizer = LoadHfTokenizer(
        ReadDocument(GetParam().name, GetParam().base_document).dump(), "", {});
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  static std::string Path(const std::string& name) {
    return kFolder + GetParam().name + "/" + name;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(HfTokenizerGoldenTest, EncodesEveryTextAsTheReference) {
  const std::string& base = GetParam().base_ids;
  CompareIds(*tokenizer_,
             UnpackLines(ReadLines(Path("ids.txt")),
                         base.empty() ? std::vector<std::string>()
                                      : ReadLines(kFolder + base + "/ids.txt")),
             GetParam().name);
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
  std::printf("%s: %zu of %zu strings with added tokens equal\n",
              GetParam().name.c_str(), equal, lines.size());
}

TEST_P(HfTokenizerGoldenTest, DecodesAsTheReference) {
  CompareTexts(*tokenizer_, ReadLines(Path("decoded.jsonl")), GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(
    Families, HfTokenizerGoldenTest,
    ::testing::Values(Family{"gpt2"}, Family{"llama3"}, Family{"qwen2"},
                      Family{"llama", "llama_gguf"},
                      Family{"metaspace", "llama_gguf", "llama"},
                      Family{"gemma", "gemma_gguf"}),
    [](const auto& info) { return info.param.name; });

// SentencePiece's own models as GGUF files hold them.
class GgufSentencePieceGoldenTest
    : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto file = GgufFile::Open(Path("tokenizer.gguf"));
    ASSERT_TRUE(file.ok()) << file.status();
    auto tokenizer = LoadTokenizer((*file)->metadata());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  static std::string Path(const std::string& name) {
    return kFolder + GetParam() + "/" + name;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(GgufSentencePieceGoldenTest, EncodesEveryTextAsTheReference) {
  CompareIds(*tokenizer_, UnpackLines(ReadLines(Path("ids.txt")), {}),
             GetParam());
}

TEST_P(GgufSentencePieceGoldenTest, DecodesAsTheReference) {
  CompareTexts(*tokenizer_, ReadLines(Path("decoded.jsonl")), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Families, GgufSentencePieceGoldenTest,
                         ::testing::Values("llama_gguf", "gemma_gguf"),
                         [](const auto& info) { return info.param; });

// Chat templates, rendered by Jinja and encoded by the family's tokenizer.
class ChatGoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    golden_ = json::parse(ReadFile(kFolder + "chats/" + GetParam() + ".json"));
    const std::string family = golden_["family"];
    json document = ReadDocument(family, family == "metaspace" ? "llama" : "");
    for (const auto& [text, id] : golden_["special_tokens"].items()) {
      document["added_tokens"].push_back(
          {{"id", id}, {"content", text}, {"special", true}});
    }
    const json config = {{"bos_token", golden_["bos_token"]},
                         {"eos_token", golden_["eos_token"]},
                         {"chat_template", golden_["template"]}};
    auto tokenizer = LoadHfTokenizer(document.dump(), config.dump(), {});
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    auto chat = LoadHfChatTemplate(config.dump(), "");
    ASSERT_TRUE(chat.ok()) << chat.status();
    ASSERT_NE(*chat, nullptr);
    chat_ = *std::move(chat);
  }

  json golden_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_;
};

TEST_P(ChatGoldenTest, EncodesEveryChatAsTheReference) {
  const json& chats = golden_["chats"];
  ASSERT_GE(chats.size(), 20);
  size_t equal = 0;
  for (const json& row : chats) {
    std::vector<ChatMessage> messages;
    for (const json& turn : row["messages"]) {
      messages.push_back({turn[0], turn[1]});
    }
    const auto ids = chat_->Encode(*tokenizer_, messages);
    ASSERT_TRUE(ids.ok()) << ids.status() << " for " << row;
    EXPECT_EQ(*ids, row["ids"].get<Ids>()) << row["messages"];
    equal += *ids == row["ids"].get<Ids>();
  }
  std::printf("%s: %zu of %zu chats equal\n", GetParam(), equal, chats.size());
}

INSTANTIATE_TEST_SUITE_P(Templates, ChatGoldenTest,
                         ::testing::Values("chatml", "llama2", "llama3",
                                           "llama31", "mistral_first",
                                           "mistral", "mistral_spaced",
                                           "mistral_third", "zephyr", "gemma",
                                           "gemma3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sparseserve
