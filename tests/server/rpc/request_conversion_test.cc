#include "server/rpc/request_conversion.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/sample_model.h"
#include "tests/server/rpc/status_parts.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing::PartsOf;
using testing::SampleModel;
using testing::StatusParts;

constexpr uint64_t kDrawnSeed = 0x8000'0000'0000'0001;

v1::GenerateOptions Options(const std::string& text) {
  v1::GenerateOptions options;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &options))
      << text;
  return options;
}

absl::StatusOr<std::unique_ptr<Request>> Convert(
    const v1::GenerateOptions& options) {
  const SampleModel sample;
  return ConvertOptions(options, sample.model(), [] { return kDrawnSeed; });
}

std::unique_ptr<Request> Accepted(const std::string& text) {
  auto request = Convert(Options(text));
  EXPECT_TRUE(request.ok()) << request.status();
  return request.ok() ? *std::move(request) : std::make_unique<Request>();
}

TEST(RequestConversionTest, AbsentFieldsTakeTheirDefaults) {
  const auto request = Accepted("text: 'a'");
  EXPECT_EQ(request->sampling.temperature, 1.0f);
  EXPECT_EQ(request->sampling.top_k, 0);
  EXPECT_EQ(request->sampling.top_p, 1.0f);
  EXPECT_EQ(request->sampling.min_p, 0.0f);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(request->sampling.presence_penalty, 0.0f);
  EXPECT_EQ(request->sampling.frequency_penalty, 0.0f);
  EXPECT_TRUE(request->sampling.logit_bias.empty());
  EXPECT_EQ(request->sampling.logprobs, -1);
  EXPECT_EQ(request->sampling.seed, kDrawnSeed);
  EXPECT_FALSE(request->seed_was_given);
  EXPECT_EQ(request->max_output_tokens, 0);
  EXPECT_EQ(request->min_output_tokens, 0);
  EXPECT_TRUE(request->stop_strings.empty());
  EXPECT_TRUE(request->stop_token_ids.empty());
  EXPECT_FALSE(request->ignore_eos);
  EXPECT_EQ(request->target.time_to_first_token, absl::InfiniteDuration());
  EXPECT_EQ(request->target.time_per_output_token, absl::InfiniteDuration());
  EXPECT_EQ(request->target.total, absl::InfiniteDuration());
  EXPECT_EQ(request->max_divergence, 0.02);
  EXPECT_EQ(request->cache_salt, "");
}

TEST(RequestConversionTest, SaltsAreOf128BytesAtMost) {
  const std::string salt(128, 's');
  EXPECT_EQ(Accepted("text: 'a' cache_salt: '" + salt + "'")->cache_salt, salt);
  const auto refused =
      Convert(Options("text: 'a' cache_salt: '" + salt + "s'"));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(PartsOf(refused.status()).fields,
              ElementsAre("options.cache_salt"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("129 bytes"));
}

TEST(RequestConversionTest, EveryFieldArrives) {
  const auto request = Accepted(R"(
    model: 'models/sample' text: 'a' max_divergence: 0.5
    sampling { temperature: 0.5 top_k: 7 top_p: 0.25 min_p: 0.125
               repetition_penalty: 1.5 presence_penalty: -2
               frequency_penalty: 2 seed: -3
               logit_bias { key: 9 value: -100 }
               logit_bias { key: 2 value: 1.5 } }
    stop { max_output_tokens: 20 min_output_tokens: 20 strings: 'x'
           strings: 'yz' token_ids: 258 ignore_eos: true }
    logprobs { top_k: 3 }
    latency_target { time_to_first_token { seconds: 1 nanos: 500000000 }
                     time_per_output_token { nanos: 1 }
                     total { seconds: 86400 } on_miss: REJECT }
    priority: -100 attention { plan: 'dense' } cache_salt: 'tenant 7')");
  EXPECT_EQ(request->cache_salt, "tenant 7");
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 7);
  EXPECT_EQ(request->sampling.top_p, 0.25f);
  EXPECT_EQ(request->sampling.min_p, 0.125f);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(request->sampling.presence_penalty, -2.0f);
  EXPECT_EQ(request->sampling.frequency_penalty, 2.0f);
  EXPECT_THAT(request->sampling.logit_bias,
              ElementsAre(Pair(2, 1.5f), Pair(9, -100.0f)));
  EXPECT_EQ(request->sampling.logprobs, 3);
  EXPECT_EQ(request->sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_TRUE(request->seed_was_given);
  EXPECT_EQ(request->max_output_tokens, 20);
  EXPECT_EQ(request->min_output_tokens, 20);
  EXPECT_THAT(request->stop_strings, ElementsAre("x", "yz"));
  EXPECT_THAT(request->stop_token_ids, ElementsAre(258));
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_EQ(request->target.time_to_first_token, absl::Milliseconds(1500));
  EXPECT_EQ(request->target.time_per_output_token, absl::Nanoseconds(1));
  EXPECT_EQ(request->target.total, absl::Hours(24));
  EXPECT_EQ(request->target.on_miss, OnMiss::kReject);
  EXPECT_EQ(request->priority, -100);
  EXPECT_EQ(request->max_divergence, 0.5);
}

TEST(RequestConversionTest, BoundsAreInclusive) {
  for (const char* text :
       {"text: 'a' sampling { temperature: 0 top_k: 0 top_p: 1 min_p: 0"
        " repetition_penalty: 0.01 presence_penalty: -2 }",
        "text: 'a' sampling { temperature: 10 top_k: 1000000 min_p: 1"
        " repetition_penalty: 100 frequency_penalty: -2 }",
        "text: 'a' stop { max_output_tokens: 1 min_output_tokens: 1 }",
        "text: 'a' stop { max_output_tokens: 100 min_output_tokens: 0 }",
        "text: 'a' logprobs { }", "text: 'a' logprobs { top_k: 20 }",
        "text: 'a' max_divergence: 0", "text: 'a' max_divergence: 10",
        "text: 'a' latency_target { }",
        "text: 'a' latency_target { time_to_first_token { seconds: 3600 } }",
        "token_ids { ids: 0 ids: 258 }"}) {
    EXPECT_TRUE(Convert(Options(text)).ok()) << text;
  }
}

TEST(RequestConversionTest, SmallestTopPStaysAboveZero) {
  const auto request = Accepted("text: 'a' sampling { top_p: 1e-300 }");
  EXPECT_GT(request->sampling.top_p, 0.0f);
}

TEST(RequestConversionTest, AsksForLogprobsOfTheDrawnTokenAlone) {
  EXPECT_EQ(Accepted("text: 'a' logprobs { }")->sampling.logprobs, 0);
}

// Each has one thing wrong with it.
struct BadRequest {
  const char* options;
  const char* field;
  grpc::StatusCode code = grpc::StatusCode::INVALID_ARGUMENT;
  const char* reason = "INVALID_FIELD";
};

constexpr BadRequest kBadRequests[] = {
    {"", "options.prompt"},
    {"text: ''", "options.text"},
    {"chat { }", "options.chat.messages"},
    {"chat { messages { content: 'a' } }", "options.chat.messages[0].role"},
    {"chat { messages { role: 'tool' content: 'a' } }",
     "options.chat.messages[0].role"},
    {"chat { messages { role: 'User' content: 'a' } }",
     "options.chat.messages[0].role"},
    {"chat { messages { role: 'user' content: 'a' }"
     "       messages { role: 'assistant' } }",
     "options.chat.messages[1].content"},
    {"token_ids { }", "options.token_ids.ids"},
    {"token_ids { ids: -1 }", "options.token_ids.ids[0]"},
    {"token_ids { ids: 3 ids: 259 }", "options.token_ids.ids[1]"},
    {"token_ids { ids: 2147483647 }", "options.token_ids.ids[0]"},
    {"token_ids { ids: -2147483648 }", "options.token_ids.ids[0]"},
    {"text: 'a' model: 'sample'", "options.model"},
    {"text: 'a' model: 'models/'", "options.model"},
    {"text: 'a' model: 'models'", "options.model"},
    {"text: 'a' sampling { temperature: -0.1 }",
     "options.sampling.temperature"},
    {"text: 'a' sampling { temperature: 10.1 }",
     "options.sampling.temperature"},
    {"text: 'a' sampling { temperature: nan }", "options.sampling.temperature"},
    {"text: 'a' sampling { temperature: inf }", "options.sampling.temperature"},
    {"text: 'a' sampling { temperature: -inf }",
     "options.sampling.temperature"},
    {"text: 'a' sampling { top_k: -1 }", "options.sampling.top_k"},
    {"text: 'a' sampling { top_k: 1000001 }", "options.sampling.top_k"},
    {"text: 'a' sampling { top_p: 0 }", "options.sampling.top_p"},
    {"text: 'a' sampling { top_p: 1.0001 }", "options.sampling.top_p"},
    {"text: 'a' sampling { top_p: nan }", "options.sampling.top_p"},
    {"text: 'a' sampling { min_p: -0.5 }", "options.sampling.min_p"},
    {"text: 'a' sampling { min_p: 1.5 }", "options.sampling.min_p"},
    {"text: 'a' sampling { min_p: nan }", "options.sampling.min_p"},
    {"text: 'a' sampling { repetition_penalty: 0 }",
     "options.sampling.repetition_penalty"},
    {"text: 'a' sampling { repetition_penalty: 101 }",
     "options.sampling.repetition_penalty"},
    {"text: 'a' sampling { repetition_penalty: nan }",
     "options.sampling.repetition_penalty"},
    {"text: 'a' sampling { presence_penalty: -2.1 }",
     "options.sampling.presence_penalty"},
    {"text: 'a' sampling { presence_penalty: inf }",
     "options.sampling.presence_penalty"},
    {"text: 'a' sampling { frequency_penalty: 2.1 }",
     "options.sampling.frequency_penalty"},
    {"text: 'a' sampling { frequency_penalty: nan }",
     "options.sampling.frequency_penalty"},
    {"text: 'a' sampling { logit_bias { key: 1 value: 101 } }",
     "options.sampling.logit_bias[1]"},
    {"text: 'a' sampling { logit_bias { key: 1 value: nan } }",
     "options.sampling.logit_bias[1]"},
    {"text: 'a' sampling { logit_bias { key: -1 value: 1 } }",
     "options.sampling.logit_bias[-1]"},
    {"text: 'a' sampling { logit_bias { key: 259 value: 1 } }",
     "options.sampling.logit_bias[259]"},
    {"text: 'a' stop { max_output_tokens: 0 }",
     "options.stop.max_output_tokens"},
    {"text: 'a' stop { max_output_tokens: -1 }",
     "options.stop.max_output_tokens"},
    {"text: 'a' stop { max_output_tokens: 101 }",
     "options.stop.max_output_tokens"},
    {"text: 'a' stop { max_output_tokens: 2147483647 }",
     "options.stop.max_output_tokens"},
    {"text: 'a' stop { min_output_tokens: -1 }",
     "options.stop.min_output_tokens"},
    {"text: 'a' stop { max_output_tokens: 5 min_output_tokens: 6 }",
     "options.stop.min_output_tokens"},
    // The default is 16.
    {"text: 'a' stop { min_output_tokens: 17 }",
     "options.stop.min_output_tokens"},
    {"text: 'a' stop { strings: 'x' strings: '' }", "options.stop.strings[1]"},
    {"text: 'a' stop { token_ids: -1 }", "options.stop.token_ids[0]"},
    {"text: 'a' stop { token_ids: 3 token_ids: 259 }",
     "options.stop.token_ids[1]"},
    {"text: 'a' logprobs { top_k: -1 }", "options.logprobs.top_k"},
    {"text: 'a' logprobs { top_k: 21 }", "options.logprobs.top_k"},
    {"text: 'a' max_divergence: -0.01", "options.max_divergence"},
    {"text: 'a' max_divergence: 10.5", "options.max_divergence"},
    {"text: 'a' max_divergence: nan", "options.max_divergence"},
    {"text: 'a' latency_target { time_to_first_token { } }",
     "options.latency_target.time_to_first_token"},
    {"text: 'a' latency_target { time_to_first_token { seconds: -1 } }",
     "options.latency_target.time_to_first_token"},
    {"text: 'a' latency_target {"
     " time_to_first_token { seconds: 3600 nanos: 1 } }",
     "options.latency_target.time_to_first_token"},
    {"text: 'a' latency_target {"
     " time_to_first_token { seconds: 1 nanos: -1 } }",
     "options.latency_target.time_to_first_token"},
    {"text: 'a' latency_target { time_to_first_token { nanos: 1000000000 } }",
     "options.latency_target.time_to_first_token"},
    {"text: 'a' latency_target { time_to_first_token { nanos: -2147483648 } }",
     "options.latency_target.time_to_first_token"},
    {"text: 'a' latency_target { time_per_output_token { seconds: 61 } }",
     "options.latency_target.time_per_output_token"},
    {"text: 'a' latency_target { total { seconds: 86401 } }",
     "options.latency_target.total"},
    {"text: 'a' latency_target { total { seconds: 9223372036854775807 } }",
     "options.latency_target.total"},
    {"text: 'a' attention { plan: '' }", "options.attention.plan"},
    {"text: 'a' attention { pattern { } }", "options.attention.pattern"},
    {"text: 'a' attention { pattern { xattention { stride: 3 } } }",
     "options.attention.pattern.xattention.stride"},
    {"text: 'a' attention { pattern { xattention { threshold: nan } } }",
     "options.attention.pattern.xattention.threshold"},
    {"text: 'a' attention { pattern { xattention { dense_layers: -1 } } }",
     "options.attention.pattern.xattention.dense_layers"},
    {"text: 'a' attention { pattern { sliding_window { } } }",
     "options.attention.pattern.sliding_window.window_tokens"},
    {"text: 'a' priority: 101", "options.priority"},
    {"text: 'a' priority: -101", "options.priority"},
    {"text: 'a' priority: -2147483648", "options.priority"},
};

class BadRequestTest : public ::testing::TestWithParam<BadRequest> {};

TEST_P(BadRequestTest, IsRefusedNamingTheField) {
  const BadRequest& bad = GetParam();
  SCOPED_TRACE(bad.options);
  const auto request = Convert(Options(bad.options));
  ASSERT_FALSE(request.ok());
  const StatusParts parts = PartsOf(request.status());
  EXPECT_EQ(parts.code, bad.code);
  EXPECT_EQ(parts.reason, bad.reason);
  EXPECT_THAT(parts.fields, ElementsAre(bad.field));
  EXPECT_EQ(parts.metadata.at("field"), bad.field);
}

INSTANTIATE_TEST_SUITE_P(Table, BadRequestTest,
                         ::testing::ValuesIn(kBadRequests));

std::string RefusedField(const v1::GenerateOptions& options) {
  const auto request = Convert(options);
  if (request.ok()) return "accepted";
  const StatusParts parts = PartsOf(request.status());
  return parts.fields.empty() ? parts.reason : parts.fields.front();
}

TEST(RequestConversionTest, UnknownEnumValuesAreRefused) {
  v1::GenerateOptions options = Options("text: 'a'");
  options.mutable_latency_target()->set_on_miss(
      static_cast<v1::LatencyTarget::OnMiss>(99));
  EXPECT_EQ(RefusedField(options), "options.latency_target.on_miss");
}

TEST(RequestConversionTest, ListsAreBounded) {
  v1::GenerateOptions biases = Options("text: 'a'");
  for (int i = 0; i < 1024; ++i) {
    (*biases.mutable_sampling()->mutable_logit_bias())[i % 259] = 1;
  }
  EXPECT_EQ(RefusedField(biases), "accepted");
  for (int i = 0; i < 1025; ++i) {
    (*biases.mutable_sampling()->mutable_logit_bias())[i] = 1;
  }
  EXPECT_EQ(RefusedField(biases), "options.sampling.logit_bias");

  v1::GenerateOptions strings = Options("text: 'a'");
  for (int i = 0; i < 16; ++i) strings.mutable_stop()->add_strings("x");
  EXPECT_EQ(RefusedField(strings), "accepted");
  strings.mutable_stop()->add_strings("x");
  EXPECT_EQ(RefusedField(strings), "options.stop.strings");

  v1::GenerateOptions length = Options("text: 'a'");
  length.mutable_stop()->add_strings(std::string(256, 'x'));
  EXPECT_EQ(RefusedField(length), "accepted");
  length.mutable_stop()->set_strings(0, std::string(257, 'x'));
  EXPECT_EQ(RefusedField(length), "options.stop.strings[0]");

  v1::GenerateOptions tokens = Options("text: 'a'");
  for (int i = 0; i < 64; ++i) tokens.mutable_stop()->add_token_ids(i);
  EXPECT_EQ(RefusedField(tokens), "accepted");
  tokens.mutable_stop()->add_token_ids(1);
  EXPECT_EQ(RefusedField(tokens), "options.stop.token_ids");

  v1::GenerateOptions chat;
  for (int i = 0; i < 1024; ++i) {
    auto& message = *chat.mutable_chat()->add_messages();
    message.set_role("user");
    message.set_content("a");
  }
  EXPECT_EQ(RefusedField(chat), "accepted");
  *chat.mutable_chat()->add_messages() = chat.chat().messages(0);
  EXPECT_EQ(RefusedField(chat), "options.chat.messages");
}

TEST(RequestConversionTest, AllViolationsComeInOneAnswer) {
  const auto request = Convert(Options(R"(
    sampling { temperature: -1 top_p: 2 }
    stop { max_output_tokens: 0 strings: '' } logprobs { top_k: 50 }
    latency_target { total { seconds: -1 } on_miss: REJECT } priority: 400)"));
  ASSERT_FALSE(request.ok());
  const StatusParts parts = PartsOf(request.status());
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(
      parts.fields,
      ElementsAre("options.prompt", "options.sampling.temperature",
                  "options.sampling.top_p", "options.stop.max_output_tokens",
                  "options.stop.strings[0]", "options.latency_target.total",
                  "options.logprobs.top_k", "options.priority"));
  EXPECT_EQ(parts.metadata.at("more"), "7");
}

TEST(RequestConversionTest, AnUnknownModelIsNotFound) {
  const auto request = Convert(Options("text: 'a' model: 'models/other'"));
  const StatusParts parts = PartsOf(request.status());
  EXPECT_EQ(parts.code, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(parts.reason, "MODEL_NOT_FOUND");
  EXPECT_EQ(parts.resource->resource_name(), "models/other");
}

TEST(RequestConversionTest, AnUnknownPlanIsNotFound) {
  const auto request = Convert(Options("text: 'a' attention { plan: 'x' }"));
  const StatusParts parts = PartsOf(request.status());
  EXPECT_EQ(parts.code, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(parts.reason, "PLAN_NOT_FOUND");
}

TEST(RequestConversionTest, APatternThatTheModelCannotHaveIsRefused) {
  const auto request =
      Convert(Options("text: 'a' attention { pattern {"
                      " sliding_window { window_tokens: 9 } } }"));
  const StatusParts parts = PartsOf(request.status());
  EXPECT_EQ(parts.code, grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(parts.reason, "PATTERN_UNSUPPORTED");
}

TEST(RequestConversionTest, WithoutAChoiceAttentionIsDense) {
  for (const char* text : {"text: 'a'", "text: 'a' attention { }"}) {
    const auto request = Accepted(text);
    EXPECT_EQ(request->attention.plan, "dense");
    EXPECT_EQ(request->attention.choice.pattern, PatternSpec(DensePattern()));
  }
}

TEST(RequestConversionTest, APatternArrivesWithItsTraitsAndHeads) {
  const auto request = Accepted(
      "text: 'a' attention { pattern { xattention { stride: 16"
      " dense_layers: 1 } } }");
  const PatternSpec pattern =
      XAttentionPattern{.stride = 16, .dense_layers = 1};
  EXPECT_EQ(request->attention.plan, "");
  EXPECT_EQ(request->attention.choice.pattern, pattern);
  EXPECT_EQ(request->attention.traits.chunk_border_tokens, 64);
  // Of four layers with two KV heads.
  EXPECT_EQ(request->attention.ruled_heads[pattern.index()], 6);
}

TEST(RequestConversionTest, ChatNeedsATemplate) {
  const SampleModel sample;
  const auto request =
      ConvertOptions(Options("chat { messages { role: 'user' content: 'a' } }"),
                     sample.without_chat(), [] { return kDrawnSeed; });
  EXPECT_THAT(PartsOf(request.status()).fields, ElementsAre("options.chat"));
}

}  // namespace
}  // namespace sparseserve
