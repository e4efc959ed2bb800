#include "server/rpc/message_parser.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparseserve/v1/inference_service.pb.h"
#include "tests/server/rpc/status_parts.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::PartsOf;
using testing::StatusParts;

// What a client without Protobuf's check would send: `good` with every 'Z'
// made a byte that is not UTF-8.
std::string Corrupt(const google::protobuf::Message& good) {
  std::string bytes = good.SerializeAsString();
  for (char& c : bytes) {
    if (c == 'Z') c = '\xFF';
  }
  return bytes;
}

StatusParts ParseError(const std::string& bytes) {
  v1::GenerateRequest request;
  const absl::Status status = ParseRequest(bytes, request);
  EXPECT_FALSE(status.ok());
  return PartsOf(status);
}

TEST(MessageParserTest, ReadsAMessage) {
  v1::GenerateRequest sent;
  sent.mutable_options()->set_text("caf\xC3\xA9");
  v1::GenerateRequest read;
  ASSERT_TRUE(ParseRequest(sent.SerializeAsString(), read).ok());
  EXPECT_EQ(read.options().text(), "caf\xC3\xA9");
}

TEST(MessageParserTest, RefusesFieldsFromANewerProtocol) {
  // Field 1000, varint 5.
  const StatusParts parts = ParseError("\xC0\x3E\x05");
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(parts.reason, "INVALID_FIELD");
  EXPECT_THAT(parts.fields, ElementsAre("request.1000"));
  EXPECT_EQ(parts.message,
            "request.1000 must be absent: this server's "
            "sparseserve.v1.GenerateRequest has no field 1000");
}

TEST(MessageParserTest, NamesTextThatIsNotUtf8) {
  v1::GenerateRequest request;
  request.mutable_options()->set_text("a Z");
  const StatusParts parts = ParseError(Corrupt(request));
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(parts.reason, "INVALID_FIELD");
  EXPECT_THAT(parts.fields, ElementsAre("options.text"));
  EXPECT_THAT(parts.descriptions, ElementsAre("must be valid UTF-8"));
}

TEST(MessageParserTest, NamesEveryBadStringWithItsIndex) {
  v1::GenerateRequest request;
  auto& options = *request.mutable_options();
  for (const char* content : {"good", "Z", "good", "Z"}) {
    auto& message = *options.mutable_chat()->add_messages();
    message.set_role("user");
    message.set_content(content);
  }
  options.mutable_stop()->add_strings("ok");
  options.mutable_stop()->add_strings("Z");
  options.set_request_id("Z");
  EXPECT_THAT(ParseError(Corrupt(request)).fields,
              ElementsAre("options.chat.messages[1].content",
                          "options.chat.messages[3].content",
                          "options.stop.strings[1]", "options.request_id"));
}

TEST(MessageParserTest, NamesAMessageThatIsNone) {
  v1::GenerateRequest request;
  request.mutable_options()->set_text("abcdef");
  std::string bytes = request.SerializeAsString();
  bytes.resize(bytes.size() - 2);
  EXPECT_THAT(ParseError(bytes).fields, ElementsAre("request"));
  EXPECT_THAT(ParseError("\xFF\xFF\xFF\xFF").fields, ElementsAre("request"));
}

TEST(MessageParserTest, NamesAFieldThatIsNoMessage) {
  // options (field 1) holds one byte that is no tag.
  EXPECT_THAT(ParseError(std::string("\x0A\x01\xFF", 3)).fields,
              ElementsAre("options"));
}

TEST(MessageParserTest, SurvivesEveryCutAndEveryFlippedByte) {
  v1::GenerateRequest request;
  auto& options = *request.mutable_options();
  options.set_model("models/a");
  auto& message = *options.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hello");
  (*options.mutable_sampling()->mutable_logit_bias())[7] = 1.5;
  options.mutable_stop()->add_strings("end");
  const std::string bytes = request.SerializeAsString();
  for (size_t i = 0; i < bytes.size(); ++i) {
    v1::GenerateRequest read;
    const absl::Status cut = ParseRequest(bytes.substr(0, i), read);
    EXPECT_TRUE(cut.ok() || absl::IsInvalidArgument(cut)) << i;
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ 0xFF);
    const absl::Status flip = ParseRequest(flipped, read);
    EXPECT_TRUE(flip.ok() || absl::IsInvalidArgument(flip)) << i;
  }
}

}  // namespace
}  // namespace sparseserve
