#include "server/security/jwt_verifier.h"

#include <initializer_list>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/signing_key.h"

namespace sparseserve {
namespace {

using Algorithm = JwtVerifier::Algorithm;
using testing::EncodeBase64Url;
using ::testing::HasSubstr;
using testing::SigningKey;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

constexpr char kRsHeader[] = R"({"alg":"RS256","typ":"JWT"})";
constexpr char kEsHeader[] = R"({"alg":"ES256","typ":"JWT"})";
constexpr char kClaims[] =
    R"({"sub":"batch","aud":"sparseserve","exp":1800000060,"iss":"us"})";

class JwtVerifierTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    rsa_ = new SigningKey(SigningKey::Kind::kRsa2048);
    ec_ = new SigningKey(SigningKey::Kind::kP256);
  }
  static void TearDownTestSuite() {
    delete rsa_;
    delete ec_;
  }

  static JwtVerifier Make(Algorithm algorithm, const std::string& issuer = "") {
    auto verifier = JwtVerifier::Create(
        {.algorithm = algorithm, .audience = "sparseserve", .issuer = issuer},
        (algorithm == Algorithm::kRs256 ? rsa_ : ec_)->PublicPem());
    EXPECT_TRUE(verifier.ok()) << verifier.status();
    return *std::move(verifier);
  }

  static SigningKey* rsa_;
  static SigningKey* ec_;
};
SigningKey* JwtVerifierTest::rsa_ = nullptr;
SigningKey* JwtVerifierTest::ec_ = nullptr;

TEST_F(JwtVerifierTest, TakesWhatIsSigned) {
  const auto rsa =
      Make(Algorithm::kRs256).Verify(rsa_->Token(kRsHeader, kClaims), kNow);
  EXPECT_EQ(rsa.failure, std::nullopt);
  EXPECT_EQ(rsa.subject, "batch");
  const auto ec =
      Make(Algorithm::kEs256).Verify(ec_->Token(kEsHeader, kClaims), kNow);
  EXPECT_EQ(ec.failure, std::nullopt);
  EXPECT_EQ(ec.subject, "batch");
}

TEST_F(JwtVerifierTest, ClaimsAreHeldTo) {
  const JwtVerifier verifier = Make(Algorithm::kEs256, "us");
  struct Case {
    std::string claims;
    std::optional<AuthFailure> failure;
  };
  const auto with = [](const std::string& exp, const std::string& more = "") {
    return R"({"sub":"a","iss":"us","aud":"sparseserve","exp":)" + exp + more +
           "}";
  };
  for (
      const Case& c : {
          Case{with("1800000001"), std::nullopt},
          Case{with("1800000000.5"), std::nullopt},
          // Half a minute of leeway.
          Case{with("1799999971"), std::nullopt},
          Case{with("1799999970"), AuthFailure::kExpiredToken},
          Case{with("-1"), AuthFailure::kExpiredToken},
          Case{with("\"1800000001\""), AuthFailure::kWrongClaims},
          Case{with("1e300"), AuthFailure::kWrongClaims},
          Case{with("null"), AuthFailure::kWrongClaims},
          Case{with("1800000001", R"(,"nbf":1800000030)"), std::nullopt},
          Case{with("1800000001", R"(,"nbf":1800000031)"),
               AuthFailure::kTokenNotYetValid},
          Case{with("1800000001", R"(,"nbf":"now")"),
               AuthFailure::kWrongClaims},
          Case{R"({"sub":"a","iss":"us","aud":"sparseserve"})",
               AuthFailure::kWrongClaims},
          Case{R"({"iss":"us","aud":"sparseserve","exp":1800000001})",
               AuthFailure::kWrongClaims},
          Case{R"({"sub":"","iss":"us","aud":"sparseserve","exp":1800000001})",
               AuthFailure::kWrongClaims},
          Case{R"({"sub":7,"iss":"us","aud":"sparseserve","exp":1800000001})",
               AuthFailure::kWrongClaims},
          Case{R"({"sub":"a","iss":"us","exp":1800000001})",
               AuthFailure::kWrongClaims},
          Case{R"({"sub":"a","iss":"us","aud":"other","exp":1800000001})",
               AuthFailure::kWrongClaims},
          Case{
              R"({"sub":"a","iss":"us","aud":["x","sparseserve"],"exp":1800000001})",
              std::nullopt},
          Case{R"({"sub":"a","iss":"us","aud":["x",7],"exp":1800000001})",
               AuthFailure::kWrongClaims},
          Case{
              R"({"sub":"a","iss":"them","aud":"sparseserve","exp":1800000001})",
              AuthFailure::kWrongClaims},
          Case{R"({"sub":"a","aud":"sparseserve","exp":1800000001})",
               AuthFailure::kWrongClaims},
          Case{"[]", AuthFailure::kMalformedToken},
          Case{"{", AuthFailure::kMalformedToken},
      }) {
    const auto result = verifier.Verify(ec_->Token(kEsHeader, c.claims), kNow);
    EXPECT_EQ(result.failure, c.failure) << c.claims;
    EXPECT_EQ(result.subject.empty(), c.failure.has_value()) << c.claims;
  }
}

TEST_F(JwtVerifierTest, TheTokenDoesNotChooseHowItIsVerified) {
  const JwtVerifier verifier = Make(Algorithm::kRs256);
  const std::string signed_part =
      EncodeBase64Url(kRsHeader) + "." + EncodeBase64Url(kClaims);
  const std::string signature = EncodeBase64Url(rsa_->Sign(signed_part));
  for (const std::string& token : {
           // Unsigned, in each spelling.
           EncodeBase64Url(R"({"alg":"none"})") + "." +
               EncodeBase64Url(kClaims) + ".",
           EncodeBase64Url(R"({"alg":"None"})") + "." +
               EncodeBase64Url(kClaims) + ".",
           rsa_->Token(R"({"alg":"HS256"})", kClaims),
           rsa_->Token(R"({"alg":"ES256"})", kClaims),
           rsa_->Token(R"({"alg":"rs256"})", kClaims),
           rsa_->Token(R"({"typ":"JWT"})", kClaims),
           rsa_->Token(R"({"alg":"RS256","crit":["b64"],"b64":false})",
                       kClaims),
           // Another's key, or another's text.
           ec_->Token(kRsHeader, kClaims),
           EncodeBase64Url(kRsHeader) + "." +
               EncodeBase64Url(R"({"sub":"admin"})") + "." + signature,
           signed_part + ".",
           signed_part + "." + EncodeBase64Url(std::string(256, '\0')),
       }) {
    EXPECT_EQ(verifier.Verify(token, kNow).failure, AuthFailure::kBadSignature)
        << token;
  }
  const SigningKey other(SigningKey::Kind::kRsa2048);
  EXPECT_EQ(verifier.Verify(other.Token(kRsHeader, kClaims), kNow).failure,
            AuthFailure::kBadSignature);
}

TEST_F(JwtVerifierTest, WhatIsNoTokenIsMalformed) {
  const JwtVerifier verifier = Make(Algorithm::kEs256);
  const std::string good = ec_->Token(kEsHeader, kClaims);
  for (const std::string& token : {
           std::string(),
           std::string("."),
           std::string(".."),
           std::string("a.b"),
           good + ".x",
           good + "=",
           "=" + good,
           good + "\n",
           EncodeBase64Url("[]") + "." + EncodeBase64Url("{}") + ".AA",
           EncodeBase64Url(std::string(2000, '{')) + "." +
               EncodeBase64Url("{}") + ".AA",
           std::string(JwtVerifier::kMostTokenBytes + 1, 'a'),
           EncodeBase64Url(std::string("{\"alg\":\"\xFF\"}")) + ".e30.AA",
           // A bit that no byte has.
           std::string("e30.e30.AB"),
       }) {
    EXPECT_EQ(verifier.Verify(token, kNow).failure,
              AuthFailure::kMalformedToken)
        << token;
  }
}

TEST_F(JwtVerifierTest, EitherKeyCountsWhileTheyAreRotated) {
  const SigningKey next(SigningKey::Kind::kP256);
  const auto verifier = JwtVerifier::Create(
      {.algorithm = Algorithm::kEs256, .audience = "sparseserve"},
      ec_->PublicPem() + next.PublicPem());
  ASSERT_TRUE(verifier.ok()) << verifier.status();
  for (const SigningKey* key :
       std::initializer_list<const SigningKey*>{ec_, &next}) {
    EXPECT_EQ(verifier->Verify(key->Token(kEsHeader, kClaims), kNow).failure,
              std::nullopt);
  }
}

TEST_F(JwtVerifierTest, RefusesKeysThatDoNotSuit) {
  const SigningKey small(SigningKey::Kind::kRsa1024);
  const SigningKey other_curve(SigningKey::Kind::kP384);
  struct Case {
    Algorithm algorithm;
    std::string keys;
    std::string error;
  };
  std::string many;
  for (int i = 0; i < 17; ++i) many += ec_->PublicPem();
  for (const Case& c : {
           Case{Algorithm::kRs256, "", "there is no public key"},
           Case{Algorithm::kRs256, ec_->PublicPem(), "key 1 is not of RSA"},
           Case{Algorithm::kRs256, small.PublicPem(),
                "key 1 has 1024 bits, must be at least 2048"},
           Case{Algorithm::kEs256, rsa_->PublicPem(), "not of the curve"},
           Case{Algorithm::kEs256, ec_->PublicPem() + other_curve.PublicPem(),
                "key 2 is not of the curve P-256"},
           Case{Algorithm::kEs256,
                ec_->PublicPem() + "-----BEGIN PUBLIC KEY-----\nAAAA\n",
                "key 2 cannot be read"},
           Case{Algorithm::kEs256, many, "more than 16 keys"},
       }) {
    const auto verifier = JwtVerifier::Create(
        {.algorithm = c.algorithm, .audience = "x"}, c.keys);
    ASSERT_FALSE(verifier.ok()) << c.error;
    EXPECT_THAT(std::string(verifier.status().message()), HasSubstr(c.error));
  }
  EXPECT_FALSE(JwtVerifier::Create({}, rsa_->PublicPem()).ok());
}

}  // namespace
}  // namespace sparseserve
