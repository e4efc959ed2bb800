#include "server/rpc/unknown_fields.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {
namespace {

using ::google::protobuf::Message;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

void AddUnknown(Message& message, int number) {
  message.GetReflection()->MutableUnknownFields(&message)->AddVarint(number, 1);
}

FieldErrors Find(const Message& message) {
  FieldErrors errors;
  FindUnknownFields(message, errors);
  return errors;
}

std::vector<std::string> Paths(const Message& message) {
  std::vector<std::string> paths;
  const FieldErrors errors = Find(message);
  for (const FieldViolation& violation : errors.violations()) {
    paths.push_back(violation.field);
  }
  return paths;
}

// Every field of a request set, at every level.
v1::GenerateRequest FullRequest() {
  v1::GenerateRequest request;
  v1::GenerateOptions& options = *request.mutable_options();
  options.set_model("models/a");
  options.mutable_chat()->add_messages()->set_role("user");
  (*options.mutable_sampling()->mutable_logit_bias())[7] = 1.5;
  options.mutable_stop()->add_strings("end");
  options.mutable_stop()->add_token_ids(1);
  options.mutable_logprobs()->set_top_k(1);
  options.mutable_latency_target()->mutable_total()->set_seconds(1);
  options.mutable_attention()->mutable_pattern()->mutable_xattention();
  return request;
}

TEST(UnknownFieldsTest, KnownFieldsAreFine) {
  EXPECT_THAT(Paths(FullRequest()), IsEmpty());
  EXPECT_THAT(Paths(v1::GenerateRequest()), IsEmpty());
}

TEST(UnknownFieldsTest, AreNamedAtEveryLevel) {
  v1::GenerateRequest request = FullRequest();
  v1::GenerateOptions& options = *request.mutable_options();
  AddUnknown(request, 2);
  AddUnknown(options, 14);
  AddUnknown(*options.mutable_chat(), 500);
  options.mutable_chat()->add_messages();
  AddUnknown(*options.mutable_chat()->mutable_messages(1), 3);
  AddUnknown(*options.mutable_sampling(), 10);
  AddUnknown(*options.mutable_latency_target()->mutable_total(), 3);
  // A pattern, and a parameter, of a later version.
  AddUnknown(*options.mutable_attention()->mutable_pattern(), 99);
  AddUnknown(
      *options.mutable_attention()->mutable_pattern()->mutable_xattention(), 9);
  EXPECT_THAT(Paths(request),
              ElementsAre("request.2", "options.14", "options.chat.500",
                          "options.chat.messages[1].3", "options.sampling.10",
                          "options.latency_target.total.3",
                          "options.attention.pattern.99",
                          "options.attention.pattern.xattention.9"));
}

TEST(UnknownFieldsTest, SayWhichMessageLacksThem) {
  v1::GenerateRequest request;
  AddUnknown(*request.mutable_options()->mutable_sampling(), 77);
  const FieldErrors errors = Find(request);
  ASSERT_THAT(errors.violations(), SizeIs(1));
  EXPECT_EQ(errors.violations()[0].requirement,
            "absent: this server's sparseserve.v1.SamplingParams has no field "
            "77");
}

TEST(UnknownFieldsTest, AKnownFieldOfAnotherTypeIsNamed) {
  v1::TokenizeRequest request;
  // parse_special is a bool; its number with four bytes is no field.
  request.GetReflection()->MutableUnknownFields(&request)->AddFixed32(4, 1);
  const FieldErrors errors = Find(request);
  ASSERT_THAT(errors.violations(), SizeIs(1));
  EXPECT_EQ(errors.violations()[0].field, "parse_special");
  EXPECT_EQ(errors.violations()[0].requirement, "encoded as a bool");
}

TEST(UnknownFieldsTest, WhatIsListedDoesNotFollowTheRequestsSize) {
  v1::GenerateRequest request;
  for (int i = 0; i < 1000; ++i) {
    AddUnknown(*request.mutable_options()->mutable_chat()->add_messages(), 9);
    AddUnknown(request, 100 + i);
  }
  EXPECT_EQ(Find(request).found(), 16);
}

}  // namespace
}  // namespace sparseserve
