#include "server/security/access_control.h"

#include <utility>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Kind = Identity::Kind;

constexpr char kMethod[] = "a.B/C";
constexpr char kToken[] = "Bearer 0123456789abcdef";

AccessControl::Decision Judge(const AccessControl& control,
                              const PeerCertificate& certificate,
                              std::string_view authorization,
                              std::string_view method = kMethod) {
  return control.Judge({certificate, authorization, method}, absl::UnixEpoch());
}

void SetTokens(AccessControl& control) {
  auto tokens = StaticTokens::Parse("batch 0123456789abcdef");
  ASSERT_TRUE(tokens.ok());
  control.SetTokens(*std::move(tokens));
}

void SetPolicy(AccessControl& control, std::vector<CallerRule> callers) {
  auto policy = AccessPolicy::Create(std::move(callers));
  ASSERT_TRUE(policy.ok()) << policy.status();
  control.SetPolicy(*std::move(policy));
}

TEST(AccessControlTest, WithoutPolicyWhoProvesAnIdentityMayCall) {
  const PeerCertificate nobody;
  const PeerCertificate workload = {
      .spiffe_id = "spiffe://a/b", .dns_names = {"a"}, .common_name = "b"};
  const AccessControl open(/*needs_credential=*/false);
  EXPECT_EQ(Judge(open, nobody, "").failure, std::nullopt);
  EXPECT_EQ(Judge(open, nobody, "").caller, "");
  // It is for somebody else, such as a gateway.
  EXPECT_EQ(Judge(open, nobody, "Basic abc").failure, std::nullopt);
  EXPECT_EQ(Judge(open, workload, "").caller, "spiffe://a/b");
  EXPECT_EQ(Judge(open, {.dns_names = {"a"}, .common_name = "b"}, "").caller,
            "dns:a");
  EXPECT_EQ(Judge(open, {.common_name = "b"}, "").caller, "cn:b");

  const AccessControl closed(/*needs_credential=*/true);
  EXPECT_EQ(Judge(closed, nobody, "").failure, AuthFailure::kNoCredential);
  EXPECT_EQ(Judge(closed, workload, "").failure, std::nullopt);
}

TEST(AccessControlTest, TokensSayWhoCallsAndFailForAll) {
  AccessControl control(/*needs_credential=*/true);
  SetTokens(control);
  const PeerCertificate workload = {.spiffe_id = "spiffe://a/b"};
  struct Case {
    PeerCertificate certificate;
    std::string authorization;
    std::string caller;
    std::optional<AuthFailure> failure;
  };
  for (const Case& c : {
           Case{{}, kToken, "token:batch", std::nullopt},
           Case{{}, "bEARER   0123456789abcdef", "token:batch", std::nullopt},
           // The token, where there is a certificate too.
           Case{workload, kToken, "token:batch", std::nullopt},
           Case{workload, "", "spiffe://a/b", std::nullopt},
           Case{{}, "", "", AuthFailure::kNoCredential},
           Case{{}, "Bearer", "", AuthFailure::kMalformedToken},
           Case{{}, "Bearer ", "", AuthFailure::kUnknownToken},
           Case{{}, "0123456789abcdef", "", AuthFailure::kMalformedToken},
           Case{{}, "Basic 0123456789abcdef", "", AuthFailure::kMalformedToken},
           Case{{}, "Bearer 0123456789abcdeX", "", AuthFailure::kUnknownToken},
           // A bad one is not made good by a certificate.
           Case{workload, "Bearer 0123456789abcdeX", "",
                AuthFailure::kUnknownToken},
       }) {
    const auto decision = Judge(control, c.certificate, c.authorization);
    EXPECT_EQ(decision.failure, c.failure) << c.authorization;
    EXPECT_EQ(decision.caller, c.caller) << c.authorization;
  }
}

TEST(AccessControlTest, APolicyLetsInWhomItNames) {
  AccessControl control(/*needs_credential=*/true);
  SetTokens(control);
  SetPolicy(control, {{.name = "by-name",
                       .identities = {{Kind::kDnsName, "good.example"}},
                       .methods = {kMethod}},
                      {.name = "by-token",
                       .identities = {{Kind::kTokenSubject, "batch"}},
                       .methods = {"a.B/*"}}});
  struct Case {
    PeerCertificate certificate;
    std::string authorization;
    std::string method;
    std::string caller;
    std::optional<AuthFailure> failure;
  };
  const PeerCertificate good = {.spiffe_id = "spiffe://a/unknown",
                                .dns_names = {"other", "good.example"}};
  for (const Case& c : {
           Case{good, "", kMethod, "by-name", std::nullopt},
           Case{good, "", "a.B/D", "by-name", AuthFailure::kMethodNotAllowed},
           Case{good, kToken, "a.B/D", "by-token", std::nullopt},
           Case{{.dns_names = {"wrong.example"}},
                "",
                kMethod,
                "dns:wrong.example",
                AuthFailure::kUnknownCaller},
           // A name in the wrong place proves nothing.
           Case{{.common_name = "good.example"},
                "",
                kMethod,
                "cn:good.example",
                AuthFailure::kUnknownCaller},
           Case{{}, "", kMethod, "", AuthFailure::kNoCredential},
       }) {
    const auto decision =
        Judge(control, c.certificate, c.authorization, c.method);
    EXPECT_EQ(decision.failure, c.failure) << c.caller << " " << c.method;
    EXPECT_EQ(decision.caller, c.caller);
  }
  // Another policy counts from its first call on.
  SetPolicy(control, {});
  EXPECT_EQ(Judge(control, good, "").failure, AuthFailure::kUnknownCaller);
}

}  // namespace
}  // namespace sparseserve
