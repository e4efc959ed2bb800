// Who may call what, over real connections.

#include <atomic>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparseserve/v1/admin_service.pb.h"
#include "sparseserve/v1/model_service.pb.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/testing/signing_key.h"
#include "tests/testing/test_certificates.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

using testing::CertificateAuthority;
using testing::CertificatePair;
using testing::CertificateSubject;
using ::testing::HasSubstr;
using testing::kGeneratePath;
using testing::kStreamGeneratePath;
using ::testing::Not;
using testing::PartsOf;
using testing::ServerFixture;
using testing::SigningKey;
using testing::StatusParts;
using testing::StreamedAnswer;
using testing::StreamRequest;
using testing::TestCall;
using testing::TestChannel;
using testing::TestFolder;
using testing::TextOptions;

constexpr char kTokenizePath[] = "/sparseserve.v1.InferenceService/Tokenize";
constexpr char kDetokenizePath[] =
    "/sparseserve.v1.InferenceService/Detokenize";
constexpr char kExplainPath[] =
    "/sparseserve.v1.InferenceService/ExplainAttention";
constexpr char kListModelsPath[] = "/sparseserve.v1.ModelService/ListModels";
constexpr char kGetModelPath[] = "/sparseserve.v1.ModelService/GetModel";
constexpr char kLoadPath[] =
    "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
constexpr char kUnknownPath[] = "/sparseserve.v1.InferenceService/Unheard";
constexpr char kReflectionPath[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
constexpr char kFlushPath[] = "/sparseserve.v1.AdminService/FlushPrefixCache";
constexpr char kDrainPath[] = "/sparseserve.v1.AdminService/Drain";

constexpr const char* kEveryMethod[] = {
    kGeneratePath,   kStreamGeneratePath, kTokenizePath,
    kDetokenizePath, kExplainPath,        kListModelsPath,
    kGetModelPath,   kLoadPath,           kUnknownPath};

class SecurityCallsTest : public ServerFixture {
 protected:
  SecurityCallsTest() {
    WriteIdentity({.common_name = "server", .dns_names = {"localhost"}});
  }

  std::string Path(const std::string& name) {
    return folder_.path() + "/" + name;
  }
  void WriteIdentity(const CertificateSubject& subject) {
    const CertificatePair pair = authority_.Issue(subject);
    folder_.Write("tls.crt", pair.certificate);
    folder_.Write("tls.key", pair.key);
  }
  void UseTls(bool mutual) {
    SecurityOptions& security = settings_.security;
    security.tls_certificate = Path("tls.crt");
    security.tls_key = Path("tls.key");
    channel_options_.ca = authority_.certificate();
    if (!mutual) return;
    folder_.Write("ca.crt", authority_.certificate());
    security.tls_client_ca = Path("ca.crt");
  }
  void UsePolicy(const std::string& text) {
    folder_.Write("policy", text);
    settings_.security.access_policy = Path("policy");
  }
  void UseTokens(const std::string& text) {
    folder_.Write("tokens", text);
    settings_.security.token_file = Path("tokens");
  }
  TestChannel::Options Showing(const CertificateAuthority& issuer,
                               const CertificateSubject& subject) {
    const CertificatePair pair = issuer.Issue(subject);
    TestChannel::Options options;
    options.ca = authority_.certificate();
    options.certificate = pair.certificate;
    options.key = pair.key;
    return options;
  }
  static StatusParts Call(TestChannel& channel, const std::string& path,
                          const std::string& token = "",
                          const std::string& request = "") {
    TestCall::Options options;
    if (!token.empty()) {
      options.metadata.emplace("authorization", "Bearer " + token);
    }
    TestCall call(channel, path, request, options);
    // One that never ends of itself has begun.
    if (path == kLoadPath && call.Read().has_value()) call.Cancel();
    return PartsOf(call.Finish());
  }

  const TestFolder folder_;
  const CertificateAuthority authority_{"authority"};
};

// The matrix: how a client comes, and how far it gets.
TEST_F(SecurityCallsTest, MutualTlsLetsInWhoHasACertificateOfTheCa) {
  UseTls(/*mutual=*/true);
  UsePolicy(R"(callers { name: "chat" identities { spiffe_id: "spiffe://a/b" }
                         methods: "*" models: "*" })");
  const CertificateSubject right = {.uri = "spiffe://a/b"};
  channel_options_ = Showing(authority_, right);
  Start();
  const CertificateAuthority stranger("authority");
  CertificateSubject expired = right;
  expired.end = absl::Now() - absl::Minutes(1);
  CertificateSubject early = right;
  early.begin = absl::Now() + absl::Minutes(30);
  TestChannel::Options none;
  none.ca = authority_.certificate();
  struct Case {
    const char* name;
    TestChannel::Options client;
  };
  for (const Case& c : {Case{"no certificate", none},
                        Case{"wrong CA", Showing(stranger, right)},
                        Case{"expired", Showing(authority_, expired)},
                        Case{"not valid yet", Showing(authority_, early)},
                        Case{"plaintext", {}}}) {
    TestChannel channel(server().port(), c.client);
    for (const char* method : kEveryMethod) {
      const StatusParts parts = Call(channel, method);
      EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE)
          << c.name << " " << method;
      EXPECT_EQ(parts.reason, "") << c.name;  // nothing of ours answered
    }
  }
  EXPECT_EQ(Series("sparseserve_grpc_server_calls_started_total"), 0);

  for (const CertificateSubject& wrong :
       {CertificateSubject{.uri = "spiffe://a/bc"},
        CertificateSubject{.common_name = "spiffe://a/b"},
        CertificateSubject{.dns_names = {"chat"}}, CertificateSubject{}}) {
    TestChannel channel(server().port(), Showing(authority_, wrong));
    for (const char* method : kEveryMethod) {
      const StatusParts parts = Call(channel, method);
      const bool has_name = !wrong.uri.empty() || !wrong.common_name.empty() ||
                            !wrong.dns_names.empty();
      EXPECT_EQ(parts.code, has_name ? grpc::StatusCode::PERMISSION_DENIED
                                     : grpc::StatusCode::UNAUTHENTICATED)
          << method;
      EXPECT_EQ(parts.reason, has_name ? "NOT_ALLOWED" : "NO_CREDENTIAL");
      EXPECT_THAT(parts.message, Not(HasSubstr("chat")));
    }
  }
  EXPECT_EQ(
      Series("sparseserve_auth_failures_total", {"reason=\"unknown_caller\""}),
      3 * std::size(kEveryMethod));
  EXPECT_EQ(
      Series("sparseserve_auth_failures_total", {"reason=\"no_credential\""}),
      std::size(kEveryMethod));

  const StreamedAnswer answer = Stream(TextOptions("hello", 5));
  EXPECT_EQ(answer.status.code, grpc::StatusCode::OK) << answer.status.message;
  EXPECT_EQ(answer.token_ids.size(), 5);
  for (const char* method : kEveryMethod) {
    const grpc::StatusCode code = Call(channel(), method).code;
    EXPECT_NE(code, grpc::StatusCode::PERMISSION_DENIED) << method;
    EXPECT_NE(code, grpc::StatusCode::UNAUTHENTICATED) << method;
    EXPECT_NE(code, grpc::StatusCode::UNAVAILABLE) << method;
  }
  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), HasSubstr("\"caller\":\"chat\""));
  EXPECT_THAT(Log(), Not(HasSubstr("hello")));
}

TEST_F(SecurityCallsTest, OnlyWhatThePolicyListsMayBeCalled) {
  UseTls(/*mutual=*/true);
  UsePolicy(R"(
    callers { name: "lister" identities { dns_name: "lister" }
              methods: "sparseserve.v1.ModelService/ListModels" models: "*" }
    callers { name: "other-model" identities { dns_name: "other" }
              methods: "*" models: "models/other" })");
  channel_options_ = Showing(authority_, {.dns_names = {"lister"}});
  Start();
  for (const char* method : kEveryMethod) {
    EXPECT_EQ(Call(channel(), method).code,
              std::string(method) == kListModelsPath
                  ? grpc::StatusCode::OK
                  : grpc::StatusCode::PERMISSION_DENIED)
        << method;
  }
  TestChannel other(server().port(),
                    Showing(authority_, {.dns_names = {"other"}}));
  EXPECT_EQ(
      Call(other, kStreamGeneratePath, "", StreamRequest(TextOptions("a", 1)))
          .code,
      grpc::StatusCode::PERMISSION_DENIED);
  v1::GetModelRequest get;
  get.set_name("models/fake");
  EXPECT_EQ(Call(other, kGetModelPath, "", get.SerializeAsString()).code,
            grpc::StatusCode::NOT_FOUND);
  TestCall list(other, kListModelsPath, "");
  v1::ListModelsResponse models;
  ASSERT_TRUE(list.Read(models));
  EXPECT_EQ(models.models_size(), 0);
  EXPECT_EQ(Series("sparseserve_auth_failures_total",
                   {"reason=\"model_not_allowed\""}),
            1);
}

TEST_F(SecurityCallsTest, TokensSayWhoCalls) {
  UseTls(/*mutual=*/false);
  UseTokens("batch 0123456789abcdef");
  Start();
  const std::string request = StreamRequest(TextOptions("hello", 2));
  EXPECT_EQ(
      Call(channel(), kStreamGeneratePath, "0123456789abcdef", request).code,
      grpc::StatusCode::OK);
  for (const char* method : kEveryMethod) {
    EXPECT_EQ(Call(channel(), method).reason, "NO_CREDENTIAL") << method;
    const StatusParts parts = Call(channel(), method, "0123456789abcdeX");
    EXPECT_EQ(parts.code, grpc::StatusCode::UNAUTHENTICATED) << method;
    EXPECT_THAT(parts.message, Not(HasSubstr("0123456789")));
  }
  // Two of them: which is it?
  TestCall::Options twice;
  twice.metadata.emplace("authorization", "Bearer 0123456789abcdef");
  twice.metadata.emplace("authorization", "Bearer 0123456789abcdef");
  TestCall call(channel(), kStreamGeneratePath, request, twice);
  EXPECT_EQ(PartsOf(call.Finish()).reason, "NO_CREDENTIAL");

  // Files that are replaced count from the next look on.
  folder_.Write("tokens", "batch fedcba9876543210");
  EXPECT_EQ(
      Call(channel(), kStreamGeneratePath, "0123456789abcdef", request).code,
      grpc::StatusCode::OK);
  server().ReloadSecurityFiles();
  EXPECT_EQ(
      Call(channel(), kStreamGeneratePath, "0123456789abcdef", request).code,
      grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(
      Call(channel(), kStreamGeneratePath, "fedcba9876543210", request).code,
      grpc::StatusCode::OK);
  folder_.Write("tokens", "nothing of use");
  server().ReloadSecurityFiles();
  EXPECT_EQ(
      Call(channel(), kStreamGeneratePath, "fedcba9876543210", request).code,
      grpc::StatusCode::OK);
  const char kReloads[] = "sparseserve_security_file_reloads_total";
  EXPECT_EQ(Series(kReloads, {"file=\"tokens\"", "outcome=\"loaded\""}), 1);
  EXPECT_EQ(Series(kReloads, {"file=\"tokens\"", "outcome=\"refused\""}), 1);
  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), Not(HasSubstr("0123456789abcdef")));
}

TEST_F(SecurityCallsTest, JsonWebTokensSayWhoCalls) {
  const SigningKey key(SigningKey::Kind::kP256);
  const SigningKey other(SigningKey::Kind::kP256);
  folder_.Write("keys", key.PublicPem());
  SecurityOptions::Jwt jwt;
  jwt.verifier.algorithm = JwtVerifier::Algorithm::kEs256;
  jwt.verifier.audience = "sparseserve";
  jwt.key_file = Path("keys");
  settings_.security.jwt = jwt;
  UsePolicy(R"(callers { name: "chat" identities { token_subject: "user-7" }
                         methods: "*" models: "*" })");
  Start();
  const int64_t now = absl::ToUnixSeconds(absl::Now());
  const auto token = [now](const SigningKey& signer, const char* subject,
                           const char* audience, int64_t end) {
    return signer.Token(R"({"alg":"ES256"})",
                        absl::StrCat("{\"sub\":\"", subject, "\",\"aud\":\"",
                                     audience, "\",\"exp\":", now + end, "}"));
  };
  struct Case {
    const char* name;
    std::string token;
    grpc::StatusCode code;
    const char* failure;
  };
  using Code = grpc::StatusCode;
  for (const Case& c :
       {Case{"right", token(key, "user-7", "sparseserve", 60), Code::OK, ""},
        Case{"none", "", Code::UNAUTHENTICATED, "no_credential"},
        Case{"no token", "abc", Code::UNAUTHENTICATED, "malformed_token"},
        Case{"expired", token(key, "user-7", "sparseserve", -60),
             Code::UNAUTHENTICATED, "expired_token"},
        Case{"another's", token(key, "user-7", "other", 60),
             Code::UNAUTHENTICATED, "wrong_claims"},
        Case{"forged", token(other, "user-7", "sparseserve", 60),
             Code::UNAUTHENTICATED, "bad_signature"},
        Case{"stranger", token(key, "user-8", "sparseserve", 60),
             Code::PERMISSION_DENIED, "unknown_caller"}}) {
    for (const char* method : kEveryMethod) {
      const bool generates = std::string(method) == kStreamGeneratePath;
      const Code code =
          Call(channel(), method, c.token,
               generates ? StreamRequest(TextOptions("hello", 2)) : "")
              .code;
      if (c.code != Code::OK) {
        EXPECT_EQ(code, c.code) << c.name << " " << method;
      } else if (generates) {
        EXPECT_EQ(code, Code::OK);
      }
    }
    if (c.code == Code::OK) continue;
    EXPECT_EQ(Series("sparseserve_auth_failures_total",
                     {absl::StrCat("reason=\"", c.failure, "\"").c_str()}),
              std::size(kEveryMethod))
        << c.name;
  }
}

TEST_F(SecurityCallsTest, ACallersRuleSetsQuotaTargetAndPriority) {
  gated_ = true;
  settings_.max_requests_per_caller = 3;
  UseTokens("small 0123456789abcdef\nlarge fedcba9876543210");
  UsePolicy(R"(
    callers { name: "small" identities { token_subject: "small" }
              methods: "*" models: "*" quota { max_requests: 1 }
              default_target { time_to_first_token { seconds: 600 } } }
    callers { name: "large" identities { token_subject: "large" }
              methods: "*" models: "*" })");
  Start();
  const auto start = [this](const char* token) {
    TestCall::Options options;
    options.metadata.emplace("authorization", std::string("Bearer ") + token);
    return std::make_unique<TestCall>(channel(), kStreamGeneratePath,
                                      StreamRequest(TextOptions("ab", 1)),
                                      options);
  };
  auto first = start("0123456789abcdef");
  gate().WaitForArrivals(1);
  const StatusParts second = PartsOf(start("0123456789abcdef")->Finish());
  EXPECT_EQ(second.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(second.reason, "QUOTA");
  EXPECT_TRUE(second.has_quota_failure);
  std::vector<std::unique_ptr<TestCall>> others;
  for (int i = 0; i < 3; ++i) others.push_back(start("fedcba9876543210"));
  WaitForSeries("sparseserve_grpc_server_calls_started_total", {}, 5);
  gate().Open();
  const StreamedAnswer answer = ReadAll(*first);
  EXPECT_EQ(answer.status.code, grpc::StatusCode::OK);
  ASSERT_TRUE(answer.report.has_value());
  EXPECT_TRUE(answer.report->has_target_outcome());
  for (auto& other : others) EXPECT_TRUE(other->Finish().ok());
  EXPECT_EQ(Series("sparseserve_latency_targets_total",
                   {"target=\"time_to_first_token\"", "outcome=\"met\""}),
            1);
}

TEST_F(SecurityCallsTest, CallersShareNoPagesUnlessTheySayTheSame) {
  UseTokens("a 0123456789abcdef\nb fedcba9876543210");
  Start();
  const auto cached = [this](const char* token, const std::string& salt) {
    v1::GenerateOptions options = TextOptions(std::string(300, 'a'), 1);
    options.set_cache_salt(salt);
    TestCall::Options call_options;
    call_options.metadata.emplace("authorization",
                                  std::string("Bearer ") + token);
    TestCall call(channel(), kStreamGeneratePath, StreamRequest(options),
                  call_options);
    return ReadAll(call).report->usage().cached_prompt_tokens();
  };
  EXPECT_EQ(cached("0123456789abcdef", ""), 0);
  EXPECT_GT(cached("0123456789abcdef", ""), 0);
  EXPECT_EQ(cached("fedcba9876543210", ""), 0);
  // Nobody comes to another's by naming it.
  EXPECT_EQ(cached("fedcba9876543210", "token:a"), 0);
  EXPECT_EQ(cached("fedcba9876543210", "caller:token:a"), 0);
  EXPECT_EQ(cached("fedcba9876543210", "ours"), 0);
  EXPECT_GT(cached("0123456789abcdef", "ours"), 0);
}

TEST_F(SecurityCallsTest, ReplacedCertificatesFailNoCall) {
  UseTls(/*mutual=*/true);
  // Clients trust the CA of before and that of after.
  const CertificateAuthority next("next");
  const CertificateSubject client = {.dns_names = {"client"}};
  channel_options_ = Showing(authority_, client);
  channel_options_.ca += next.certificate();
  Start();
  std::atomic<bool> stop{false};
  std::atomic<int> served{0}, failed{0};
  std::vector<std::thread> clients;
  const std::string request = StreamRequest(TextOptions("hello", 3));
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back([&, options = channel_options_] {
      while (!stop) {
        // A handshake for each.
        TestChannel channel(server().port(), options);
        const StatusParts parts =
            Call(channel, kStreamGeneratePath, "", request);
        ++(parts.code == grpc::StatusCode::OK ? served : failed);
      }
    });
  }
  const auto serve = [&](int more) {
    for (const int target = served + more; served < target && failed == 0;) {
      absl::SleepFor(absl::Milliseconds(5));
    }
  };
  TestChannel::Options of_next = channel_options_;
  of_next.ca = next.certificate();
  const auto serves_next = [&] {
    TestChannel channel(server().port(), of_next);
    return Call(channel, kStreamGeneratePath, "", request).code ==
           grpc::StatusCode::OK;
  };
  serve(20);
  EXPECT_FALSE(serves_next());

  const absl::Time end = absl::FromUnixSeconds(2'000'000'000);
  const CertificatePair pair = next.Issue(
      {.common_name = "server", .dns_names = {"localhost"}, .end = end});
  // One after the other, as some tools do: in between they do not fit.
  folder_.Write("tls.key", pair.key);
  server().ReloadSecurityFiles();
  serve(20);
  folder_.Write("tls.crt", pair.certificate);
  server().ReloadSecurityFiles();
  while (!serves_next() && failed == 0) serve(1);

  folder_.Write("tls.crt", "-----BEGIN CERTIFICATE-----\nrubbish\n");
  server().ReloadSecurityFiles();
  // gRPC looks each second.
  const absl::Time seen = absl::Now() + absl::Seconds(2);
  while (absl::Now() < seen && failed == 0) serve(1);
  EXPECT_TRUE(serves_next());
  stop = true;
  for (std::thread& thread : clients) thread.join();
  EXPECT_EQ(failed, 0);
  const char kReloads[] = "sparseserve_tls_certificate_reloads_total";
  EXPECT_EQ(Series(kReloads, {"outcome=\"loaded\""}), 1);
  EXPECT_EQ(Series(kReloads, {"outcome=\"refused\""}), 2);
  EXPECT_EQ(Series("sparseserve_tls_certificate_expiry_timestamp_seconds"),
            absl::ToUnixSeconds(end));
}

TEST_F(SecurityCallsTest, ReflectionAnswersWhereItIsWanted) {
  UseTls(/*mutual=*/false);
  settings_.security.reflection = false;
  prepare_server_ = [](Server::Options& options) {
    options.admin_listen = "127.0.0.1:0";
  };
  Start();
  // ServerReflectionRequest{list_services: ""}.
  const std::string list("\x3A\x00", 2);
  EXPECT_EQ(Call(channel(), kReflectionPath, "", list).code,
            grpc::StatusCode::UNIMPLEMENTED);
  TestChannel admin(server().admin_port());
  TestCall reflected(admin, kReflectionPath, list);
  const auto services = reflected.Read();
  ASSERT_TRUE(services.has_value());
  EXPECT_THAT(*services, HasSubstr("sparseserve.v1.AdminService"));
}

TEST_F(SecurityCallsTest, AdminHasAListenerOfItsOwn) {
  std::atomic<int> drains{0};
  prepare_server_ = [&](Server::Options& options) {
    options.admin_listen = "127.0.0.1:0";
    options.on_drain_request = [&drains] { ++drains; };
  };
  Start();
  const v1::GenerateOptions prompt = TextOptions(std::string(300, 'a'), 1);
  Stream(prompt);
  EXPECT_GT(Stream(prompt).report->usage().cached_prompt_tokens(), 0);
  EXPECT_EQ(Call(channel(), kFlushPath).code, grpc::StatusCode::UNIMPLEMENTED);
  TestChannel admin(server().admin_port());
  EXPECT_EQ(Call(admin, kGeneratePath).code, grpc::StatusCode::UNIMPLEMENTED);
  TestCall flush(admin, kFlushPath, "");
  v1::FlushPrefixCacheResponse flushed;
  ASSERT_TRUE(flush.Read(flushed));
  EXPECT_TRUE(flush.Finish().ok());
  EXPECT_EQ(flushed.flushed_pages(), 4);
  WaitForSeries("sparseserve_kv_cache_pages", {"state=\"cached\""}, 0);
  EXPECT_EQ(Stream(prompt).report->usage().cached_prompt_tokens(), 0);
  EXPECT_EQ(Call(admin, kDrainPath).code, grpc::StatusCode::OK);
  EXPECT_EQ(drains, 1);
  server().Drain(absl::Minutes(1));
  EXPECT_EQ(Call(admin, kFlushPath).code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(Log(), HasSubstr("\"event\":\"audit\",\"method\":"
                               "\"sparseserve.v1.AdminService/"
                               "FlushPrefixCache\""));
  EXPECT_THAT(Log(), HasSubstr("\"peer\":\"ipv4:127.0.0.1:"));
}

TEST_F(SecurityCallsTest, AnEncryptedAdminListenerAsksWhoCalls) {
  UseTls(/*mutual=*/true);
  UsePolicy(R"(
    callers { name: "operator" identities { dns_name: "operator" }
              methods: "sparseserve.v1.AdminService/FlushPrefixCache" }
    callers { name: "chat" identities { dns_name: "chat" } models: "*"
              methods: "sparseserve.v1.InferenceService/*" })");
  channel_options_ = Showing(authority_, {.dns_names = {"chat"}});
  prepare_server_ = [](Server::Options& options) {
    options.admin_listen = "127.0.0.1:0";
    options.admin_needs_identity = true;
  };
  Start();
  const int port = server().admin_port();
  TestChannel caller(port, Showing(authority_, {.dns_names = {"operator"}}));
  EXPECT_EQ(Call(caller, kFlushPath).code, grpc::StatusCode::OK);
  EXPECT_EQ(Call(caller, kDrainPath).code, grpc::StatusCode::PERMISSION_DENIED);
  TestChannel chat(port, Showing(authority_, {.dns_names = {"chat"}}));
  EXPECT_EQ(Call(chat, kFlushPath).code, grpc::StatusCode::PERMISSION_DENIED);
  TestChannel stranger(port);
  EXPECT_EQ(Call(stranger, kFlushPath).code, grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace sparseserve
