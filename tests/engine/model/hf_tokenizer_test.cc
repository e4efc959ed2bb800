#include "engine/model/hf_tokenizer.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/byte_alphabet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<TokenId>;

constexpr char kLlama3Regex[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

// Token b < 256 is the byte b, 256 is "ab", 257 "12"; 258 is the special token
// <begin>, 259 the added token <x>.
json Document() {
  json vocab;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[ByteToAlphabet(static_cast<uint8_t>(byte))] = byte;
  }
  vocab["ab"] = 256;
  vocab["12"] = 257;
  const auto added = [](int id, const char* content, bool special) {
    return json{
        {"id", id},          {"content", content},  {"lstrip", false},
        {"rstrip", false},   {"normalized", false}, {"single_word", false},
        {"special", special}};
  };
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", json::array({added(258, "<begin>", true),
                                        added(259, "<x>", false)})},
          {"normalizer", nullptr},
          {"pre_tokenizer", ByteLevel(true)},
          {"post_processor", nullptr},
          {"decoder", ByteLevel(true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", json::array({"a b", "1 2"})}}}};
}

json BeginTemplate() {
  return json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<begin>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [],
      "special_tokens": {"<begin>": {"id": "<begin>", "ids": [258],
                                     "tokens": ["<begin>"]}}})");
}

std::unique_ptr<Tokenizer> Load(const json& document,
                                const std::string& config = "",
                                size_t least_tokens = 0) {
  auto tokenizer = LoadHfTokenizer(document.dump(), config, {}, least_tokens);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(HfTokenizerTest, LoadsAByteLevelModel) {
  const auto tokenizer = Load(Document());
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_THAT(tokenizer->Encode("ab12<x>c", false).value(),
              ElementsAre(256, 257, 259, 'c'));
  EXPECT_THAT(tokenizer->Encode("a<begin>", true).value(),
              ElementsAre('a', 258));
  EXPECT_EQ(tokenizer->Encode("<begin>", false)->size(), 7);
  EXPECT_TRUE(tokenizer->IsSpecial(258));
  EXPECT_FALSE(tokenizer->IsSpecial(259));
  EXPECT_EQ(tokenizer->begin_token(), std::nullopt);
}

TEST(HfTokenizerTest, ReadsMergesInBothSpellings) {
  json document = Document();
  document["model"]["merges"] = json::parse(R"([["a", "b"], ["1", "2"]])");
  EXPECT_THAT(Load(document)->Encode("ab12", false).value(),
              ElementsAre(256, 257));
}

TEST(HfTokenizerTest, KnowsTheRulesByTheirStructureAndExpressions) {
  json document = Document();
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  document["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", json::array({digits, ByteLevel(true)})}};
  EXPECT_EQ(Load(document)->Encode("12", false)->size(), 2);
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kLlama3Regex}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  document["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", json::array({split, ByteLevel(false)})}};
  EXPECT_EQ(Load(document)->Encode("12", false)->size(), 1);
}

TEST(HfTokenizerTest, TakesWholeWordsWhereMergesAreIgnored) {
  json document = Document();
  document["model"]["vocab"]["xyz"] = 260;
  EXPECT_EQ(Load(document)->Encode("xyz", false)->size(), 3);
  document["model"]["ignore_merges"] = true;
  EXPECT_THAT(Load(document)->Encode("xyz", false).value(), ElementsAre(260));
}

TEST(HfTokenizerTest, NormalizesBetweenAddedTokens) {
  json document = Document();
  document["normalizer"] = {{"type", "NFC"}};
  EXPECT_THAT(Load(document)->Encode("e\u0301<x>e\u0301", false).value(),
              ElementsAre(0xc3, 0xa9, 259, 0xc3, 0xa9));
}

TEST(HfTokenizerTest, BeginsPromptsWhereTheFilesSaySo) {
  json document = Document();
  const std::string kBegin = R"({"bos_token": {"content": "<begin>"})";
  EXPECT_FALSE(Load(document, kBegin + "}")->prompts_begin());
  EXPECT_EQ(Load(document, kBegin + "}")->begin_token(), 258);
  EXPECT_TRUE(
      Load(document, kBegin + R"(, "add_bos_token": true})")->prompts_begin());

  document["post_processor"] = {
      {"type", "Sequence"},
      {"processors", json::array({ByteLevel(true), BeginTemplate()})}};
  EXPECT_FALSE(
      Load(document, kBegin + R"(, "add_bos_token": false})")->prompts_begin());
  const auto tokenizer = Load(document);
  EXPECT_THAT(tokenizer->EncodePrompt("ab", false, 2).value(),
              ElementsAre(258, 256));
  EXPECT_THAT(tokenizer->Encode("ab", false).value(), ElementsAre(256));
  for (const int limit : {0, 1}) {
    EXPECT_TRUE(absl::IsOutOfRange(
        tokenizer->EncodePrompt("ab", false, limit).status()));
  }
}

TEST(HfTokenizerTest, CollectsTheEndTokens) {
  json document = Document();
  document["added_tokens"].push_back(
      {{"id", 260}, {"content", "<|im_end|>"}, {"special", true}});
  const auto tokenizer =
      LoadHfTokenizer(document.dump(), R"({"eos_token": "<begin>"})", {7, 258});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->end_tokens(), ElementsAre(258, 7, 260));
}

TEST(HfTokenizerTest, HasTokensWithoutBytesWhereIdsAreUnused) {
  json document = Document();
  document["added_tokens"][1]["id"] = 262;
  const auto tokenizer = Load(document, "", 270);
  EXPECT_EQ(tokenizer->vocab_size(), 270);
  for (const TokenId unused : {259, 261, 263, 269}) {
    EXPECT_EQ(tokenizer->TokenBytes(unused), "");
    EXPECT_FALSE(tokenizer->IsSpecial(unused));
  }
  EXPECT_THAT(tokenizer->Encode("<x>", false).value(), ElementsAre(262));
}

struct BadDocument {
  std::string name;
  std::function<void(json&)> spoil;
  std::string message;
};

class BadHfTokenizerTest : public ::testing::TestWithParam<BadDocument> {};

TEST_P(BadHfTokenizerTest, IsRefusedWithTheReason) {
  json document = Document();
  GetParam().spoil(document);
  const absl::Status status = LoadHfTokenizer(document.dump(), "", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

const BadDocument kBadDocuments[] = {
    {"NotAnObject", [](json& d) { d = 3; }, "tokenizer.json is 3, not an object"},
    {"Unigram", [](json& d) { d["model"]["type"] = "Unigram"; },
     "model.type is \"Unigram\""},
    {"Dropout", [](json& d) { d["model"]["dropout"] = 0.5; },
     "model.dropout is 0.5, which is not supported"},
    {"Suffix", [](json& d) { d["model"]["end_of_word_suffix"] = "</w>"; },
     "model.end_of_word_suffix is \"</w>\""},
    {"UnknownSetting", [](json& d) { d["model"]["new"] = 1; },
     "model has an unknown setting \"new\""},
    {"ByteFallback", [](json& d) { d["model"]["byte_fallback"] = true; },
     "byte_fallback is true"},
    {"UnknownToken",
     [](json& d) {
       d["model"]["unk_token"] = "<x>";
       d["model"]["vocab"].erase(ByteToAlphabet(4));
     },
     "the byte 4 has no token"},
    {"VocabMissing", [](json& d) { d["model"].erase("vocab"); },
     "model.vocab is missing"},
    {"VocabArray", [](json& d) { d["model"]["vocab"] = json::array({1}); },
     "model.vocab is an array of 1, not an object"},
    {"IdNegative", [](json& d) { d["model"]["vocab"]["ab"] = -1; },
     "model.vocab of \"ab\" is -1, not a whole number within 0"},
    {"IdFraction", [](json& d) { d["model"]["vocab"]["ab"] = 1.5; },
     "of \"ab\" is 1.5"},
    {"IdHuge", [](json& d) { d["model"]["vocab"]["ab"] = 2000000000; },
     "names 260 tokens for ids up to 2000000000"},
    {"IdTwice", [](json& d) { d["model"]["vocab"]["ab"] = 257; },
     "gives the id 257 to"},
    {"EmptyToken", [](json& d) { d["model"]["vocab"][""] = 260; },
     "token 260 is empty"},
    {"MergeOfThree",
     [](json& d) {
       d["model"]["merges"][0] = json::array({"a", "b", "c"});
     },
     "model.merges[0] has 3 parts"},
    {"MergeNumber", [](json& d) { d["model"]["merges"][1] = 5; },
     "model.merges[1] is 5, not a string"},
    {"MergeUnknown", [](json& d) { d["model"]["merges"][1] = "b a"; },
     "merge 1, \"b a\": a part or the result"},
    {"Lstrip", [](json& d) { d["added_tokens"][0]["lstrip"] = true; },
     "added_tokens[0].lstrip is true, which is not supported"},
    {"SingleWord", [](json& d) { d["added_tokens"][1]["single_word"] = true; },
     "added_tokens[1].single_word is true"},
    {"NormalizedAdded",
     [](json& d) {
       d["normalizer"] = {{"type", "NFC"}};
       d["added_tokens"][0]["normalized"] = true;
     },
     "added_tokens[0].normalized is true"},
    {"Lowercase",
     [](json& d) {
       d["normalizer"] = {{"type", "Lowercase"}};
     },
     "normalizer is \"[Lowercase]\""},
    {"PrefixSpace",
     [](json& d) { d["pre_tokenizer"]["add_prefix_space"] = true; },
     "pre_tokenizer.add_prefix_space is true"},
    {"Whitespace",
     [](json& d) {
       d["pre_tokenizer"] = {{"type", "Whitespace"}};
     },
     "pre_tokenizer is \"[Whitespace]\""},
    {"NoPreTokenizer", [](json& d) { d["pre_tokenizer"] = nullptr; },
     "pre_tokenizer is \"[]\""},
    {"NoType", [](json& d) { d["pre_tokenizer"].erase("type"); },
     "pre_tokenizer has no type"},
    {"OtherExpression",
     [](json& d) {
       const json split = {{"type", "Split"},
                           {"pattern", {{"Regex", "x+"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
       d["pre_tokenizer"] = {
           {"type", "Sequence"},
           {"pretokenizers", json::array({split, ByteLevel(false)})}};
     },
     "pretokenizers[0].pattern.Regex is \"x+\""},
    {"Roberta",
     [](json& d) {
       d["post_processor"] = {{"type", "RobertaProcessing"}};
     },
     "post_processor is \"[RobertaProcessing]\""},
    {"EndAppended",
     [](json& d) {
       d["post_processor"] = BeginTemplate();
       auto& single = d["post_processor"]["single"];
       std::swap(single[0], single[1]);
     },
     "single[0] has an unknown setting \"Sequence\""},
    {"BeginOtherId",
     [](json& d) {
       d["post_processor"] = BeginTemplate();
       d["post_processor"]["special_tokens"]["<begin>"]["ids"] =
           json::array({5});
     },
     "\"<begin>\" is token 5, which it is not"},
    {"NoDecoder", [](json& d) { d["decoder"] = nullptr; }, "decoder is \"[]\""},
    {"WordPieceDecoder",
     [](json& d) {
       d["decoder"] = {{"type", "WordPiece"}};
     },
     "decoder is \"[WordPiece]\""},
};
INSTANTIATE_TEST_SUITE_P(All, BadHfTokenizerTest,
                         ::testing::ValuesIn(kBadDocuments),
                         [](const auto& info) { return info.param.name; });

TEST(HfTokenizerTest, RefusesWhatIsNoJson) {
  const std::string deep(100000, '[');
  const std::pair<std::string, std::string> kCases[] = {
      {"", "tokenizer.json is not valid JSON"},
      {"{\"a\":", "not valid JSON"},
      {"{\"a\": \"\xff\"}", "not valid JSON"},
      {deep, "nested deeper than 64"}};
  for (const auto& [text, message] : kCases) {
    const absl::Status status = LoadHfTokenizer(text, "", {}).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(HfTokenizerTest, RefusesAConfigurationThatDoesNotFit) {
  const std::pair<std::string, std::string> kCases[] = {
      {"[]", "tokenizer_config.json is an array of 0, not an object"},
      {R"({"add_eos_token": true})", "add_eos_token is true"},
      {R"({"add_prefix_space": true})", "add_prefix_space is true"},
      {R"({"add_bos_token": "yes"})", "add_bos_token is \"yes\""},
      {R"({"add_bos_token": true})", "there is no bos_token"},
      {R"({"bos_token": 5})", "bos_token is 5, not a string"},
      {R"({"eos_token": "nothing"})", "eos_token is \"nothing\", no token"}};
  for (const auto& [config, message] : kCases) {
    const absl::Status status =
        LoadHfTokenizer(Document().dump(), config, {}).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  EXPECT_THAT(
      std::string(
          LoadHfTokenizer(Document().dump(), "", {260}).status().message()),
      HasSubstr("end token 260 is not within 0 and 259"));
}

TEST(HfChatTemplateTest, ReadsEitherPlaceOfATemplate) {
  const std::string source = "{{ '<|im_start|>' + role + '<|im_end|>' }}";
  const json named = {
      {"chat_template",
       json::array({{{"name", "tool_use"}, {"template", "x"}},
                    {{"name", "default"}, {"template", source}}})}};
  EXPECT_NE(LoadHfChatTemplate("", source).value(), nullptr);
  EXPECT_NE(
      LoadHfChatTemplate(json{{"chat_template", source}}.dump(), "").value(),
      nullptr);
  EXPECT_NE(LoadHfChatTemplate(named.dump(), "").value(), nullptr);
  EXPECT_EQ(LoadHfChatTemplate("", "").value(), nullptr);
  EXPECT_EQ(LoadHfChatTemplate("{}", "").value(), nullptr);
  EXPECT_EQ(LoadHfChatTemplate("", "{{ odd }}").value(), nullptr);
}

TEST(HfChatTemplateTest, RefusesATemplateThatIsNoText) {
  EXPECT_THAT(
      std::string(
          LoadHfChatTemplate(R"({"chat_template": 5})", "").status().message()),
      HasSubstr("chat_template is 5, not a string"));
}

}  // namespace
}  // namespace sparseserve
