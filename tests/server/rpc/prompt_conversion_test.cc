#include "server/rpc/prompt_conversion.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/sample_model.h"
#include "tests/server/rpc/status_parts.h"
#include "tests/testing/fake_chat_template.h"
#include "tests/testing/fake_tokenizer.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PartsOf;
using testing::SampleModel;
using testing::StatusParts;

// The longest piece of the sample's tokenizer has two bytes.
constexpr size_t kMaxBytes = 2 * 99;

v1::GenerateOptions TextPrompt(const std::string& text) {
  v1::GenerateOptions options;
  options.set_text(text);
  return options;
}

std::vector<TokenId> Bytes(const std::string& text) {
  return {text.begin(), text.end()};
}

StatusParts TooLong(const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  const StatusParts parts = PartsOf(status);
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(parts.reason, "PROMPT_TOO_LONG");
  return parts;
}

TEST(EncodePromptTest, TextBecomesTokens) {
  const SampleModel sample;
  EXPECT_EQ(EncodePrompt(TextPrompt("hello"), sample.model()).value(),
            Bytes("hello"));
}

// Texts begin with token 256.
class BeginningTokenizer : public testing::FakeTokenizer {
 public:
  std::optional<TokenId> begin_token() const override { return 256; }
  bool prompts_begin() const override { return true; }
};

TEST(EncodePromptTest, TextAloneBeginsWithTheModelsBeginToken) {
  const SampleModel sample;
  const BeginningTokenizer tokenizer;
  const ServedModel model{.name = "models/sample",
                          .info = sample.model().info,
                          .compute_dtype = "f32",
                          .tokenizer = tokenizer,
                          .chat_template = sample.model().chat_template,
                          .max_prompt_tokens = 3,
                          .max_prompt_bytes = 99};
  EXPECT_THAT(EncodePrompt(TextPrompt("hi"), model).value(),
              ElementsAre(256, 'h', 'i'));
  TooLong(EncodePrompt(TextPrompt("hi!"), model).status());
  v1::TokenizeRequest request;
  request.set_text("hi!");
  EXPECT_THAT(EncodeInput(request, model).value(),
              ElementsAre(256, 'h', 'i', '!'));
  auto& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("x");
  EXPECT_EQ(EncodeInput(request, model).value(), Bytes("user:x;"));
}

TEST(EncodePromptTest, ChatGoesThroughTheTemplate) {
  const SampleModel sample;
  v1::GenerateOptions options;
  auto& message = *options.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hi");
  EXPECT_EQ(EncodePrompt(options, sample.model()).value(), Bytes("user:hi;"));
}

// Takes no conversation.
class StubbornTemplate : public testing::FakeChatTemplate {
 public:
  absl::StatusOr<std::vector<TokenId>> Encode(const Tokenizer&,
                                              absl::Span<const ChatMessage>,
                                              int64_t) const override {
    return absl::InvalidArgumentError("message 1 has the role user");
  }
};

TEST(EncodePromptTest, AChatThatTheTemplateRefusesNamesTheField) {
  const SampleModel sample;
  const StubbornTemplate chat_template;
  ServedModel model = sample.model();
  model.chat_template = &chat_template;
  v1::GenerateOptions options;
  options.mutable_chat()->add_messages()->set_content("x");
  const StatusParts parts = PartsOf(EncodePrompt(options, model).status());
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(parts.fields, ElementsAre("options.chat.messages"));
  EXPECT_THAT(parts.message, HasSubstr("message 1 has the role user"));
}

TEST(EncodePromptTest, TokenIdsAreTakenAsTheyAre) {
  const SampleModel sample;
  v1::GenerateOptions options;
  for (int id : {256, 0, 258}) options.mutable_token_ids()->add_ids(id);
  EXPECT_THAT(EncodePrompt(options, sample.model()).value(),
              ElementsAre(256, 0, 258));
}

TEST(EncodePromptTest, TextThatCannotFitIsRefusedByItsBytes) {
  const SampleModel sample;
  EXPECT_EQ(PromptBytes(TextPrompt(std::string(kMaxBytes, 'a')), sample.model())
                .value(),
            kMaxBytes);
  const StatusParts parts = TooLong(
      EncodePrompt(TextPrompt(std::string(kMaxBytes + 1, 'a')), sample.model())
          .status());
  EXPECT_EQ(parts.metadata.at("field"), "options.text");
  EXPECT_EQ(parts.metadata.at("unit"), "bytes");
  EXPECT_EQ(parts.metadata.at("limit"), "198");
  EXPECT_EQ(parts.metadata.at("size"), "199");
}

TEST(EncodePromptTest, ChatThatCannotFitIsRefusedByItsBytes) {
  const SampleModel sample;
  v1::GenerateOptions options;
  for (int i = 0; i < 2; ++i) {
    auto& message = *options.mutable_chat()->add_messages();
    message.set_role("user");
    message.set_content(std::string(100, 'a'));
  }
  EXPECT_EQ(TooLong(EncodePrompt(options, sample.model()).status())
                .metadata.at("field"),
            "options.chat");
}

TEST(EncodePromptTest, TextOfTooManyTokensIsRefusedWithoutCountingThem) {
  const SampleModel sample;
  EXPECT_TRUE(
      EncodePrompt(TextPrompt(std::string(99, 'a')), sample.model()).ok());
  const StatusParts parts = TooLong(
      EncodePrompt(TextPrompt(std::string(100, 'a')), sample.model()).status());
  EXPECT_EQ(parts.metadata.at("field"), "options.text");
  EXPECT_EQ(parts.metadata.at("unit"), "tokens");
  EXPECT_EQ(parts.metadata.at("limit"), "99");
  EXPECT_EQ(parts.metadata.count("size"), 0);
  EXPECT_THAT(parts.message, HasSubstr("more than 99 tokens long"));
}

TEST(EncodePromptTest, TooManyTokenIdsAreRefused) {
  const SampleModel sample;
  v1::GenerateOptions options;
  for (int i = 0; i < 100; ++i) options.mutable_token_ids()->add_ids(1);
  const StatusParts parts =
      TooLong(EncodePrompt(options, sample.model()).status());
  EXPECT_EQ(parts.metadata.at("unit"), "tokens");
  EXPECT_EQ(parts.metadata.at("limit"), "99");
}

absl::Status Set(int prompt_tokens, Request& request) {
  const SampleModel sample;
  return SetPrompt(std::vector<TokenId>(prompt_tokens, 1), sample.model(),
                   request);
}

TEST(SetPromptTest, TheDefaultOutputLimitShrinksToWhatTheContextLeaves) {
  Request request;
  ASSERT_TRUE(Set(10, request).ok());
  EXPECT_EQ(request.max_output_tokens, 16);
  EXPECT_EQ(request.prompt.size(), 10);
  Request long_request;
  ASSERT_TRUE(Set(99, long_request).ok());
  EXPECT_EQ(long_request.max_output_tokens, 1);
}

TEST(SetPromptTest, APromptThatCannotBeCutMustFitAStep) {
  const SampleModel sample;
  ServedModel model = sample.model();
  model.max_step_tokens = 64;
  Request request;
  request.attention.choice.pattern = XAttentionPattern();
  EXPECT_TRUE(SetPrompt(std::vector<TokenId>(65, 1), model, request).ok());
  request.attention.traits.is_selection_causal = false;
  EXPECT_TRUE(SetPrompt(std::vector<TokenId>(64, 1), model, request).ok());
  const StatusParts parts =
      PartsOf(SetPrompt(std::vector<TokenId>(65, 1), model, request));
  EXPECT_EQ(parts.code, grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(parts.reason, "PATTERN_UNSUPPORTED");
  EXPECT_EQ(parts.metadata.at("pattern"), "xattention");
  EXPECT_EQ(parts.metadata.at("cause"),
            "it runs a prompt in one step, which holds 64 tokens, and the "
            "prompt has 65");
}

TEST(SetPromptTest, AnOutputLimitThatDoesNotFitIsRefused) {
  Request request;
  request.max_output_tokens = 90;
  ASSERT_TRUE(Set(10, request).ok());
  const StatusParts parts = PartsOf(Set(11, request));
  EXPECT_EQ(parts.reason, "INVALID_FIELD");
  EXPECT_THAT(parts.fields, ElementsAre("options.stop.max_output_tokens"));
}

TEST(SetPromptTest, TheLeastOutputMustFitToo) {
  Request request;
  request.min_output_tokens = 5;
  EXPECT_THAT(PartsOf(Set(96, request)).fields,
              ElementsAre("options.stop.min_output_tokens"));
}

TEST(SetPromptTest, APromptMustLeaveRoomForOneToken) {
  Request request;
  const StatusParts parts = PartsOf(Set(100, request));
  EXPECT_EQ(parts.reason, "PROMPT_TOO_LONG");
  EXPECT_EQ(parts.metadata.at("size"), "100");
  EXPECT_EQ(parts.metadata.at("limit"), "99");
  EXPECT_EQ(parts.metadata.at("unit"), "tokens");
}

TEST(SetPromptTest, APromptOfNoTokensIsRefused) {
  Request request;
  EXPECT_THAT(PartsOf(Set(0, request)).fields, ElementsAre("options.prompt"));
}

TEST(EncodeInputTest, TextAndChatBecomeTokens) {
  const SampleModel sample;
  v1::TokenizeRequest request;
  request.set_text("ab");
  EXPECT_EQ(EncodeInput(request, sample.model()).value(), Bytes("ab"));
  request.mutable_chat()->add_messages()->set_role("user");
  request.mutable_chat()->mutable_messages(0)->set_content("x");
  EXPECT_EQ(EncodeInput(request, sample.model()).value(), Bytes("user:x;"));
}

// The sample's tokenizer makes a token of each byte.
TEST(EncodeInputTest, MayBeLongerThanTheContextUpToALimitOfItsOwn) {
  const SampleModel sample;
  ServedModel model = sample.model();
  model.max_prompt_bytes = 1 << 20;
  v1::TokenizeRequest request;
  request.set_text(std::string(65'536, 'a'));
  EXPECT_EQ(EncodeInput(request, model)->size(), 65'536);
  request.mutable_text()->push_back('a');
  const StatusParts parts = TooLong(EncodeInput(request, model).status());
  EXPECT_EQ(parts.message,
            "text is more than 65536 tokens long, must be at most 65536");
  EXPECT_EQ(parts.metadata.at("unit"), "tokens");
  model.info.context_tokens = 65'537;
  EXPECT_EQ(EncodeInput(request, model)->size(), 65'537);
}

TEST(EncodeInputTest, ChatHasTheSameLimitAsText) {
  const SampleModel sample;
  ServedModel model = sample.model();
  model.max_prompt_bytes = 1 << 20;
  v1::TokenizeRequest request;
  auto& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content(std::string(65'536, 'a'));
  const StatusParts parts = TooLong(EncodeInput(request, model).status());
  EXPECT_EQ(parts.metadata.at("field"), "chat");
  EXPECT_EQ(parts.metadata.at("limit"), "65536");
}

TEST(EncodeInputTest, EmptyTextHasNoTokens) {
  const SampleModel sample;
  v1::TokenizeRequest request;
  request.set_text("");
  EXPECT_THAT(EncodeInput(request, sample.model()).value(), ElementsAre());
}

TEST(CheckInputTest, BadInputsAreNamed) {
  const SampleModel sample;
  v1::TokenizeRequest none;
  EXPECT_THAT(PartsOf(CheckInput(none, sample.model()).status()).fields,
              ElementsAre("input"));
  v1::TokenizeRequest special;
  special.mutable_chat()->add_messages()->set_role("nobody");
  special.set_parse_special(true);
  EXPECT_THAT(PartsOf(CheckInput(special, sample.model()).status()).fields,
              ElementsAre("parse_special", "chat.messages[0].role",
                          "chat.messages[0].content"));
  v1::TokenizeRequest huge;
  huge.set_text(std::string(kMaxBytes + 1, 'a'));
  EXPECT_EQ(
      TooLong(CheckInput(huge, sample.model()).status()).metadata.at("field"),
      "text");
  v1::TokenizeRequest elsewhere;
  elsewhere.set_text("a");
  elsewhere.set_model("models/other");
  EXPECT_EQ(PartsOf(CheckInput(elsewhere, sample.model()).status()).reason,
            "MODEL_NOT_FOUND");
}

TEST(DecodeTokensTest, JoinsTheBytesOfTokens) {
  const SampleModel sample;
  v1::DetokenizeRequest request;
  for (TokenId id : {97, 257, 99}) request.add_token_ids(id);
  EXPECT_EQ(DecodeTokens(request, sample.model()).value(), "aabc");
}

TEST(DecodeTokensTest, BadIdsAndCountsAreNamed) {
  const SampleModel sample;
  v1::DetokenizeRequest request;
  EXPECT_THAT(PartsOf(DecodeTokens(request, sample.model()).status()).fields,
              ElementsAre("token_ids"));
  request.add_token_ids(1);
  request.add_token_ids(259);
  request.add_token_ids(-1);
  EXPECT_THAT(PartsOf(DecodeTokens(request, sample.model()).status()).fields,
              ElementsAre("token_ids[1]", "token_ids[2]"));
  request.Clear();
  for (int i = 0; i < 101; ++i) request.add_token_ids(1);
  EXPECT_THAT(PartsOf(DecodeTokens(request, sample.model()).status()).fields,
              ElementsAre("token_ids"));
}

}  // namespace
}  // namespace sparseserve
