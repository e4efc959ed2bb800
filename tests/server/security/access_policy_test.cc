#include "server/security/access_policy.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Kind = Identity::Kind;
using ::testing::HasSubstr;

TEST(CallerRuleTest, AllowsTheMethodsThatItLists) {
  struct Case {
    std::string pattern;
    std::string method;
    bool allowed;
  };
  for (const Case& c : {
           Case{"*", "a.B/C", true},
           Case{"a.B/C", "a.B/C", true},
           Case{"a.B/C", "a.B/CD", false},
           Case{"a.B/C", "a.B/", false},
           Case{"a.B/*", "a.B/C", true},
           Case{"a.B/*", "a.B/", true},
           Case{"a.B/*", "a.BC/D", false},
           Case{"a.B/*", "a.B", false},
           Case{"a.B/*", "x.a.B/C", false},
           Case{"/*", "a.B/C", false},
       }) {
    CallerRule rule;
    rule.methods = {"other.Service/Method", c.pattern};
    EXPECT_EQ(rule.AllowsMethod(c.method), c.allowed)
        << c.pattern << " " << c.method;
  }
  EXPECT_FALSE(CallerRule().AllowsMethod("a.B/C"));
}

TEST(CallerRuleTest, AllowsTheModelsThatItLists) {
  CallerRule rule;
  EXPECT_FALSE(rule.AllowsModel("models/a"));
  rule.models = {"models/a"};
  EXPECT_TRUE(rule.AllowsModel("models/a"));
  EXPECT_FALSE(rule.AllowsModel("models/ab"));
  rule.models = {"*"};
  EXPECT_TRUE(rule.AllowsModel("models/ab"));
}

TEST(AccessPolicyTest, KindsOfIdentityNeverStandForEachOther) {
  const auto policy = AccessPolicy::Create(
      {{.name = "workload", .identities = {{Kind::kSpiffeId, "spiffe://a/b"}}},
       {.name = "host", .identities = {{Kind::kDnsName, "a.example"}}}});
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->callers(), 2);
  EXPECT_EQ(policy->Find({Kind::kSpiffeId, "spiffe://a/b"})->name, "workload");
  EXPECT_EQ(policy->Find({Kind::kDnsName, "a.example"})->name, "host");
  EXPECT_EQ(policy->Find({Kind::kTokenSubject, "spiffe://a/b"}), nullptr);
  EXPECT_EQ(policy->Find({Kind::kCommonName, "a.example"}), nullptr);
  EXPECT_EQ(policy->Find({Kind::kSpiffeId, "spiffe://a/b/c"}), nullptr);
}

TEST(AccessPolicyTest, RefusesWhatIsAmbiguous) {
  const Identity a = {Kind::kDnsName, "a"};
  struct Case {
    std::vector<CallerRule> callers;
    std::string error;
  };
  for (const Case& c : {
           Case{{{.identities = {a}}}, "no name"},
           Case{{{.name = "x"}}, "\"x\" has no identity"},
           Case{{{.name = "x", .identities = {{Kind::kDnsName, ""}}}},
                "\"x\" has an empty identity"},
           Case{{{.name = "x", .identities = {a}},
                 {.name = "x", .identities = {{Kind::kDnsName, "b"}}}},
                "two callers have the name \"x\""},
           Case{{{.name = "x", .identities = {a}},
                 {.name = "y", .identities = {a}}},
                "\"x\" and \"y\" share the identity dns:a"},
       }) {
    const auto policy = AccessPolicy::Create(c.callers);
    ASSERT_FALSE(policy.ok()) << c.error;
    EXPECT_THAT(policy.status().message(), HasSubstr(c.error));
  }
}

}  // namespace
}  // namespace sparseserve
