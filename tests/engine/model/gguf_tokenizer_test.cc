#include "engine/model/gguf_tokenizer.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/gguf_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/byte_level_vocabulary.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/sentence_piece_vocabulary.h"

namespace sparseserve {
namespace {

using testing::AddVocabulary;
using testing::ByteLevelVocabulary;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using Ids = std::vector<TokenId>;

// Calls `use` with the metadata that `write` put into a file.
void WithMetadata(const std::function<void(GgufWriter&)>& write,
                  const std::function<void(const GgufMetadata&)>& use) {
  GgufWriter writer;
  write(writer);
  const std::string bytes = writer.Build();
  const auto file = GgufFile::Parse(absl::MakeConstSpan(
      reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
  ASSERT_TRUE(file.ok()) << file.status();
  use((*file)->metadata());
}

std::string TokenizerError(const std::function<void(GgufWriter&)>& write) {
  std::string message;
  WithMetadata(write, [&](const GgufMetadata& metadata) {
    message = std::string(LoadTokenizer(metadata).status().message());
  });
  return message;
}

TEST(GgufTokenizerTest, LoadsTheVocabularyThatTheFileDescribes) {
  std::unique_ptr<Tokenizer> tokenizer;
  WithMetadata(
      [](GgufWriter& writer) {
        BpeVocabulary vocabulary = ByteLevelVocabulary({"1 2", "a b"});
        vocabulary.pre_split = PreSplit::kSmolLm;
        AddVocabulary(vocabulary, writer);
      },
      [&](const GgufMetadata& metadata) {
        auto loaded = LoadTokenizer(metadata);
        ASSERT_TRUE(loaded.ok()) << loaded.status();
        tokenizer = *std::move(loaded);
      });
  // The file is gone: the tokenizer keeps nothing of it.
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(tokenizer->Encode("ab12", false).value(),
              ElementsAre(260, '1', '2'));
  // The file's end token first, then the special token that ends a text.
  EXPECT_THAT(tokenizer->end_tokens(), ElementsAre(258, 256));
}

TEST(GgufTokenizerTest, KnowsTheRulesOfFilesByTheirNames) {
  const std::pair<std::string, size_t> kWordsOf12[] = {
      {"gpt-2", 1}, {"gpt2", 1}, {"smollm", 2}, {"starcoder", 2}};
  for (const auto& [name, tokens] : kWordsOf12) {
    WithMetadata(
        [&name = name](GgufWriter& writer) {
          const BpeVocabulary vocabulary = ByteLevelVocabulary({"1 2"});
          writer.Add("tokenizer.ggml.model", std::string("gpt2"));
          writer.Add("tokenizer.ggml.pre", name);
          writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
          writer.Add("tokenizer.ggml.merges", vocabulary.merges);
        },
        [&name = name, &tokens = tokens](const GgufMetadata& metadata) {
          const auto tokenizer = LoadTokenizer(metadata);
          ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
          EXPECT_EQ((*tokenizer)->Encode("12", false)->size(), tokens) << name;
        });
  }
}

TEST(GgufTokenizerTest, BeginsPromptsWhereTheFileSaysSo) {
  struct Case {
    std::string rule;
    std::optional<bool> key;
    bool begins;
  };
  const Case kCases[] = {{"gpt-2", std::nullopt, false},
                         {"gpt-2", true, true},
                         {"llama-bpe", std::nullopt, true},
                         {"llama-bpe", false, false}};
  for (const Case& row : kCases) {
    WithMetadata(
        [&](GgufWriter& writer) {
          const BpeVocabulary vocabulary = ByteLevelVocabulary({});
          writer.Add("tokenizer.ggml.model", std::string("gpt2"));
          writer.Add("tokenizer.ggml.pre", row.rule);
          writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
          writer.Add("tokenizer.ggml.merges", vocabulary.merges);
          writer.Add("tokenizer.ggml.bos_token_id", uint32_t{257});
          if (row.key) writer.Add("tokenizer.ggml.add_bos_token", *row.key);
        },
        [&](const GgufMetadata& metadata) {
          const auto tokenizer = LoadTokenizer(metadata);
          ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
          EXPECT_EQ((*tokenizer)->begin_token(), 257);
          EXPECT_EQ((*tokenizer)->prompts_begin(), row.begins) << row.rule;
        });
  }
}

TEST(GgufTokenizerTest, TakesWholeWordsAndNormalisesAsTheRulesModelsDo) {
  for (const auto& [rule, tokens] : std::vector<std::pair<std::string, Ids>>{
           {"gpt-2", {'e', 0xcc, 0x81, ' ', 'a', 'b', 'c'}},
           {"llama-bpe", {'e', 0xcc, 0x81, 259}},
           {"qwen2", {0xc3, 0xa9, ' ', 'a', 'b', 'c'}}}) {
    WithMetadata(
        [&rule = rule](GgufWriter& writer) {
          BpeVocabulary vocabulary = ByteLevelVocabulary({});
          vocabulary.tokens.push_back("Ġabc");
          writer.Add("tokenizer.ggml.model", std::string("gpt2"));
          writer.Add("tokenizer.ggml.pre", rule);
          writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
          writer.Add("tokenizer.ggml.merges", vocabulary.merges);
          writer.Add("tokenizer.ggml.add_bos_token", false);
        },
        [&rule = rule, &tokens = tokens](const GgufMetadata& metadata) {
          const auto tokenizer = LoadTokenizer(metadata);
          ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
          EXPECT_EQ((*tokenizer)->Encode("e\u0301 abc", false).value(), tokens)
              << rule;
        });
  }
}

// 257 is the mark of a space, 258 "a", 259 the two together, 260 two marks.
SentencePieceVocabulary SentencePieces() {
  SentencePieceVocabulary vocabulary =
      testing::SentencePieceVocabularyOf({"a", "\u2581a", "\u2581\u2581"});
  vocabulary.kinds[260] = TokenKind::kUserDefined;
  return vocabulary;
}

TEST(GgufTokenizerTest, LoadsASentencePieceModel) {
  for (const bool adds_space : {false, true}) {
    WithMetadata(
        [&](GgufWriter& writer) {
          AddVocabulary(SentencePieces(), writer);
          // It is added unless a file says otherwise.
          if (!adds_space) {
            writer.Add("tokenizer.ggml.add_space_prefix", false);
          }
        },
        [&](const GgufMetadata& metadata) {
          const auto tokenizer = LoadTokenizer(metadata);
          ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
          EXPECT_TRUE((*tokenizer)->prompts_begin());
          EXPECT_EQ((*tokenizer)->drops_first_space(), adds_space);
          EXPECT_EQ((*tokenizer)->EncodePrompt("a a", false, 9).value(),
                    adds_space ? (Ids{256, 259, 259}) : (Ids{256, 258, 259}));
          EXPECT_EQ((*tokenizer)->Encode("x  ", false)->back(), 260);
          EXPECT_EQ((*tokenizer)->TokenBytes(260), "  ");
        });
  }
}

TEST(GgufTokenizerTest, NamesWhatASentencePieceModelLacks) {
  const std::pair<std::string, std::function<void(GgufWriter&)>> kCases[] = {
      {"tokenizer.ggml.scores has 260 elements, but the vocabulary has 261",
       [](GgufWriter& writer) {
         SentencePieceVocabulary vocabulary = SentencePieces();
         vocabulary.scores.pop_back();
         AddVocabulary(vocabulary, writer);
       }},
      {"tokenizer.ggml.remove_extra_whitespaces is true",
       [](GgufWriter& writer) {
         AddVocabulary(SentencePieces(), writer);
         writer.Add("tokenizer.ggml.remove_extra_whitespaces", true);
       }}};
  for (const auto& [message, write] : kCases) {
    EXPECT_THAT(TokenizerError(write), HasSubstr(message));
  }
}

TEST(GgufTokenizerTest, NamesTheKeyThatIsMissingOrMalformed) {
  struct Case {
    std::string message;
    std::function<void(GgufWriter&)> write;
  };
  const BpeVocabulary vocabulary = ByteLevelVocabulary({});
  const auto model = [](GgufWriter& writer) {
    writer.Add("tokenizer.ggml.model", std::string("gpt2"));
  };
  const Case kCases[] = {
      {"no metadata key \"tokenizer.ggml.model\"", [](GgufWriter&) {}},
      {"tokenizer.ggml.model is \"bert\"; known are \"gpt2\" and \"llama\"",
       [](GgufWriter& writer) {
         writer.Add("tokenizer.ggml.model", std::string("bert"));
       }},
      {"tokenizer.ggml.pre is \"odd\"; known are gpt-2, gpt2, phi-2",
       [&](GgufWriter& writer) {
         model(writer);
         writer.Add("tokenizer.ggml.pre", std::string("odd"));
       }},
      {"tokenizer.ggml.pre is \"default\"; known are",
       [&](GgufWriter& writer) {
         model(writer);
         writer.Add("tokenizer.ggml.pre", std::string("default"));
       }},
      {"no metadata key \"tokenizer.ggml.tokens\"", model},
      {"\"tokenizer.ggml.tokens\" is an array of int32",
       [&](GgufWriter& writer) {
         model(writer);
         writer.Add("tokenizer.ggml.tokens", std::vector<int32_t>{1});
       }},
      {"no metadata key \"tokenizer.ggml.merges\"",
       [&](GgufWriter& writer) {
         model(writer);
         writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
       }},
      {"tokenizer.ggml.token_type of token 1 is 7, not within 1 and 6",
       [&](GgufWriter& writer) {
         model(writer);
         writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
         writer.Add("tokenizer.ggml.token_type", std::vector<int32_t>{1, 7});
       }},
      {"tokenizer.ggml.token_type has 2 elements, but",
       [&](GgufWriter& writer) {
         model(writer);
         writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
         writer.Add("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1});
       }},
      {"prompts begin with a token, but there is no "
       "tokenizer.ggml.bos_token_id",
       [&](GgufWriter& writer) {
         AddVocabulary(vocabulary, writer);
         writer.Add("tokenizer.ggml.add_bos_token", true);
       }},
      {"tokenizer.ggml.bos_token_id is 259, but the vocabulary has 259",
       [&](GgufWriter& writer) {
         AddVocabulary(vocabulary, writer);
         writer.Add("tokenizer.ggml.bos_token_id", uint32_t{259});
       }},
      {"tokenizer.ggml.add_eos_token is true",
       [&](GgufWriter& writer) {
         AddVocabulary(vocabulary, writer);
         writer.Add("tokenizer.ggml.add_eos_token", true);
       }},
      {"tokenizer.ggml.eot_token_id is 259, but the vocabulary has 259",
       [&](GgufWriter& writer) {
         AddVocabulary(vocabulary, writer);
         writer.Add("tokenizer.ggml.eot_token_id", uint32_t{259});
       }},
      {"token 1 repeats token 0",
       [&](GgufWriter& writer) {
         model(writer);
         writer.Add("tokenizer.ggml.tokens",
                    std::vector<std::string>{"a", "a"});
         writer.Add("tokenizer.ggml.merges", std::vector<std::string>{});
       }},
  };
  for (const Case& bad : kCases) {
    EXPECT_THAT(TokenizerError(bad.write), HasSubstr(bad.message));
  }
}

TEST(GgufTokenizerTest, RefusesADefaultSystemMessageThatIsNotUtf8) {
  WithMetadata(
      [](GgufWriter& writer) {
        writer.Add("tokenizer.chat_template",
                   std::string("<|im_start|>system\nab\xff<|im_end|>"));
      },
      [](const GgufMetadata& metadata) {
        const absl::Status status = LoadChatTemplate(metadata).status();
        EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
        EXPECT_THAT(std::string(status.message()),
                    HasSubstr("not valid UTF-8 at byte 2"));
      });
}

TEST(GgufTokenizerTest, LoadsAKnownChatTemplateAndNoOther) {
  const std::pair<std::string, bool> kCases[] = {
      {"{{ '<|im_start|>' + role + '<|im_end|>' }}", true},
      {"[INST] {{ m }} [/INST]", false}};
  for (const auto& [source, known] : kCases) {
    WithMetadata(
        [&source = source](GgufWriter& writer) {
          writer.Add("tokenizer.chat_template", source);
        },
        [&known = known](const GgufMetadata& metadata) {
          const auto chat = LoadChatTemplate(metadata);
          ASSERT_TRUE(chat.ok()) << chat.status();
          EXPECT_EQ(*chat != nullptr, known);
        });
  }
  WithMetadata([](GgufWriter&) {},
               [](const GgufMetadata& metadata) {
                 const auto chat = LoadChatTemplate(metadata);
                 ASSERT_TRUE(chat.ok()) << chat.status();
                 EXPECT_EQ(*chat, nullptr);
               });
}

}  // namespace
}  // namespace sparseserve
