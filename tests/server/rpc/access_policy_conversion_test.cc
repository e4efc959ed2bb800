#include "server/rpc/access_policy_conversion.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Kind = Identity::Kind;
using ::testing::HasSubstr;

TEST(AccessPolicyConversionTest, ReadsWhatACallerMayDo) {
  const auto policy = ParseAccessPolicy(R"(
    callers {
      name: "chat"
      identities { spiffe_id: "spiffe://prod/chat" }
      identities { dns_name: "chat.example" }
      identities { common_name: "chat" }
      identities { token_subject: "chat-token" }
      methods: "sparseserve.v1.InferenceService/*"
      methods: "sparseserve.v1.ModelService/GetModel"
      models: "models/small"
      quota { max_requests: 4 max_tokens: 1000 }
      default_target { time_to_first_token { seconds: 2 } on_miss: REJECT }
      default_priority: -3
      max_priority: 5
    }
    callers {
      name: "batch" identities { token_subject: "b" } methods: "*"
      quota { max_requests: 1 }
    })",
                                        "policy");
  ASSERT_TRUE(policy.ok()) << policy.status();
  const auto chat = policy->Find({Kind::kSpiffeId, "spiffe://prod/chat"});
  ASSERT_NE(chat, nullptr);
  EXPECT_EQ(policy->Find({Kind::kDnsName, "chat.example"}), chat);
  EXPECT_EQ(policy->Find({Kind::kCommonName, "chat"}), chat);
  EXPECT_EQ(policy->Find({Kind::kTokenSubject, "chat-token"}), chat);
  EXPECT_EQ(chat->name, "chat");
  EXPECT_TRUE(chat->AllowsMethod("sparseserve.v1.InferenceService/Generate"));
  EXPECT_FALSE(chat->AllowsMethod("sparseserve.v1.ModelService/ListModels"));
  EXPECT_TRUE(chat->AllowsModel("models/small"));
  EXPECT_FALSE(chat->AllowsModel("models/large"));
  ASSERT_TRUE(chat->quota.has_value());
  EXPECT_EQ(chat->quota->max_requests, 4);
  EXPECT_EQ(chat->quota->max_tokens, 1000);
  EXPECT_EQ(chat->default_target.time_to_first_token, absl::Seconds(2));
  EXPECT_EQ(chat->default_target.on_miss, OnMiss::kReject);
  EXPECT_EQ(chat->default_priority, -3);
  EXPECT_EQ(chat->max_priority, 5);

  const auto batch = policy->Find({Kind::kTokenSubject, "b"});
  ASSERT_NE(batch, nullptr);
  EXPECT_EQ(batch->quota->max_tokens, 0);
  EXPECT_FALSE(batch->AllowsModel("models/small"));
  EXPECT_FALSE(batch->default_target.is_named());
}

TEST(AccessPolicyConversionTest, AnEmptyPolicyNamesNobody) {
  const auto policy = ParseAccessPolicy("", "policy");
  ASSERT_TRUE(policy.ok());
  EXPECT_EQ(policy->callers(), 0);
}

TEST(AccessPolicyConversionTest, RefusesWhatCouldNotBeMeant) {
  struct Case {
    std::string text;
    std::string error;
  };
  const auto with = [](const std::string& more) {
    return "callers { name: 'a' identities { dns_name: 'a' } methods: '*' " +
           more + " }";
  };
  for (const Case& c : {
           Case{"callers {", "policy:1:"},
           Case{"caller { }", "policy:1:8"},
           Case{"callers { identities { dns_name: 'a' } methods: '*' }",
                "callers[0].name"},
           Case{"callers { name: 'a b' identities { dns_name: 'a' } }",
                "callers[0].name"},
           Case{"callers { name: 'a' methods: '*' }",
                "callers[0].identities (entries)"},
           Case{"callers { name: 'a' identities { } methods: '*' }",
                "callers[0].identities[0]"},
           Case{"callers { name: 'a' identities { dns_name: 'a' } }",
                "callers[0].methods (entries)"},
           Case{"callers { name: 'a' identities { spiffe_id: 'a/b' } methods: "
                "'*' }",
                "begins with spiffe://"},
           Case{with("methods: 'Generate'"), "callers[0].methods"},
           Case{with("methods: '/Generate'"), "callers[0].methods"},
           Case{with("methods: 'a.*/Generate'"), "callers[0].methods"},
           Case{with("methods: 'a.B/'"), "callers[0].methods"},
           Case{with("models: 'small'"), "callers[0].models"},
           Case{with("quota { max_requests: 0 }"), "quota.max_requests"},
           Case{with("quota { max_tokens: -1 }"), "quota.max_tokens"},
           Case{with("default_priority: 101"), "default_priority"},
           Case{with("max_priority: -101"), "max_priority"},
           Case{with("default_target { total { seconds: -1 } }"),
                "default_target.total"},
           Case{with("") + with(""), "the name \"a\""},
       }) {
    const auto policy = ParseAccessPolicy(c.text, "policy");
    ASSERT_FALSE(policy.ok()) << c.text;
    EXPECT_THAT(std::string(policy.status().message()), HasSubstr(c.error))
        << c.text;
  }
}

}  // namespace
}  // namespace sparseserve
