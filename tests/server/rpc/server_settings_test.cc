#include "server/rpc/server_settings.h"

#include <cstdint>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ServerSettings> Settle(const std::string& config,
                                      const SettingFlags& flags = {}) {
  return SettleSettings(config, "server.textproto", flags);
}

std::string ErrorOf(const absl::StatusOr<ServerSettings>& settings) {
  EXPECT_EQ(settings.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(settings.status().message());
}

TEST(ServerSettingsTest, AnEmptyConfigTakesDefaults) {
  const auto settings = Settle("");
  ASSERT_TRUE(settings.ok());
  EXPECT_EQ(settings->max_step_tokens, 0);  // the engine's to choose
  EXPECT_EQ(settings->max_running_sequences, 32);
  EXPECT_EQ(settings->max_queued_requests, 256);
  EXPECT_EQ(settings->step_time_target, absl::Milliseconds(100));
  EXPECT_EQ(settings->best_effort_share, 0.2);
  EXPECT_TRUE(settings->prefix_cache);
  EXPECT_TRUE(settings->default_targets.empty());
  EXPECT_EQ(settings->drain_timeout, absl::Seconds(30));
  EXPECT_EQ(settings->default_max_output_tokens, std::nullopt);
  EXPECT_EQ(settings->max_connection_age, absl::InfiniteDuration());
}

TEST(ServerSettingsTest, EveryFieldArrives) {
  const auto settings = Settle(R"(
    scheduler { max_step_tokens: 100 max_running_sequences: 2
                max_queued_requests: 3 max_queued_tokens: 4
                step_time_target { nanos: 50000000 } best_effort_share: 0.5
                ageing_period { seconds: 7 } prefix_cache: false
                classes { priority: 5 default_target {
                    time_to_first_token { seconds: 2 } on_miss: REJECT } } }
    request_limits { default_max_output_tokens: 5
                     default_deadline { seconds: 6 }
                     slow_consumer_timeout { nanos: 7000000 }
                     max_buffered_messages: 8 }
    connection { max_request_bytes: 2048 max_concurrent_streams: 9
                 max_metadata_bytes: 4096 max_connection_age { seconds: 60 }
                 max_connection_idle { seconds: 61 }
                 keepalive_time { seconds: 62 }
                 keepalive_timeout { seconds: 63 } }
    drain_timeout { seconds: 0 }
    stall_timeout { seconds: 64 }
    recall_sample_share: 0.25
    report_load: false
    prune_heads { layers: [2, 0] kv_heads: [1, 3] }
    prune_heads { layers: 5 kv_heads: 0 }
    attention_plans { name: 'fast' pattern { xattention { stride: 16 } } }
    attention_plans { name: 'near-2.b_c'
                      pattern { sliding_window { window_tokens: 65 } } }
    attention_plans { name: 'heads'
                      map { rules { pattern { xattention { } } }
                            rules { pattern { sink_window { } }
                                    layers: [1, 3] kv_heads: 0 } } })");
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->max_step_tokens, 100);
  EXPECT_EQ(settings->max_running_sequences, 2);
  EXPECT_EQ(settings->max_queued_requests, 3);
  EXPECT_EQ(settings->max_queued_tokens, 4);
  EXPECT_EQ(settings->step_time_target, absl::Milliseconds(50));
  EXPECT_EQ(settings->best_effort_share, 0.5);
  EXPECT_EQ(settings->ageing_period, absl::Seconds(7));
  EXPECT_FALSE(settings->prefix_cache);
  ASSERT_EQ(settings->default_targets.size(), 1u);
  const LatencyTarget& target = settings->default_targets.at(5);
  EXPECT_EQ(target.time_to_first_token, absl::Seconds(2));
  EXPECT_EQ(target.on_miss, OnMiss::kReject);
  EXPECT_EQ(settings->default_max_output_tokens, 5);
  EXPECT_EQ(settings->default_deadline, absl::Seconds(6));
  EXPECT_EQ(settings->slow_consumer_timeout, absl::Milliseconds(7));
  EXPECT_EQ(settings->max_buffered_messages, 8);
  EXPECT_EQ(settings->max_request_bytes, 2048);
  EXPECT_EQ(settings->max_concurrent_streams, 9);
  EXPECT_EQ(settings->max_metadata_bytes, 4096);
  EXPECT_EQ(settings->max_connection_age, absl::Seconds(60));
  EXPECT_EQ(settings->max_connection_idle, absl::Seconds(61));
  EXPECT_EQ(settings->keepalive_time, absl::Seconds(62));
  EXPECT_EQ(settings->keepalive_timeout, absl::Seconds(63));
  EXPECT_EQ(settings->drain_timeout, absl::ZeroDuration());
  EXPECT_EQ(settings->stall_timeout, absl::Seconds(64));
  EXPECT_EQ(settings->recall_sample_share, 0.25);
  EXPECT_FALSE(settings->report_load);
  ASSERT_EQ(settings->pruned_heads.size(), 3);
  EXPECT_EQ(settings->pruned_heads[0].layer, 2);
  EXPECT_EQ(settings->pruned_heads[1].layer, 0);
  EXPECT_EQ(settings->pruned_heads[1].kv_heads, std::vector<int>({1, 3}));
  EXPECT_EQ(settings->pruned_heads[2].layer, 5);
  ASSERT_EQ(settings->attention_plans.size(), 3);
  const std::vector<HeadRule>& map = settings->attention_plans[2].map;
  EXPECT_EQ(settings->attention_plans[2].name, "heads");
  ASSERT_EQ(map.size(), 2);
  EXPECT_EQ(map[0].pattern, PatternSpec(XAttentionPattern()));
  EXPECT_TRUE(map[0].layers.empty());
  EXPECT_EQ(map[1].layers, std::vector<int>({1, 3}));
  EXPECT_EQ(map[1].kv_heads, std::vector<int>({0}));
  EXPECT_EQ(settings->attention_plans[0].name, "fast");
  EXPECT_EQ(settings->attention_plans[0].pattern,
            PatternSpec(XAttentionPattern{.stride = 16}));
  EXPECT_TRUE(settings->attention_plans[0].map.empty());
  EXPECT_EQ(settings->attention_plans[1].name, "near-2.b_c");
  EXPECT_EQ(settings->attention_plans[1].pattern,
            PatternSpec(SlidingWindowPattern{65}));
}

TEST(ServerSettingsTest, PrunedHeadsNeedLayersAndHeads) {
  const auto error = [](const std::string& config) {
    return std::string(Settle(config, {}).status().message());
  };
  EXPECT_EQ(error("prune_heads { layers: 1 }"),
            "prune_heads[0].kv_heads must be given");
  EXPECT_EQ(error("prune_heads { kv_heads: 1 }"),
            "prune_heads[0].layers must be given");
  std::string many;
  for (int i = 0; i < 1025; ++i) {
    many += "prune_heads { layers: 1 kv_heads: 0 }\n";
  }
  EXPECT_EQ(error(many), "prune_heads is 1025, must be at most 1024");
}

TEST(ServerSettingsTest, FlagsWinOverTheConfig) {
  const auto settings =
      Settle("scheduler { max_step_tokens: 100 max_queued_requests: 7 }",
             {.max_step_tokens = 200,
              .max_running_sequences = 3,
              .drain_timeout = absl::Seconds(1)});
  ASSERT_TRUE(settings.ok());
  EXPECT_EQ(settings->max_step_tokens, 200);
  EXPECT_EQ(settings->max_running_sequences, 3);
  EXPECT_EQ(settings->max_queued_requests, 7);
  EXPECT_EQ(settings->drain_timeout, absl::Seconds(1));
}

TEST(ServerSettingsTest, SecurityArrivesAndFlagsWin) {
  const auto settings = Settle(R"(
    security {
      tls_certificate: "a.crt" tls_key: "a.key" tls_client_ca: "ca.crt"
      reload_interval { seconds: 3 }
      access_policy: "policy" token_file: "tokens"
      jwt { algorithm: ES256 key_file: "keys" audience: "us" issuer: "them"
            leeway { seconds: 5 } }
    })",
                               {.tls_key = "b.key"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  const SecurityOptions& security = settings->security;
  EXPECT_EQ(security.tls_certificate, "a.crt");
  EXPECT_EQ(security.tls_key, "b.key");
  EXPECT_EQ(security.tls_client_ca, "ca.crt");
  EXPECT_EQ(security.reload_interval, absl::Seconds(3));
  EXPECT_EQ(security.access_policy, "policy");
  EXPECT_EQ(security.token_file, "tokens");
  ASSERT_TRUE(security.jwt.has_value());
  EXPECT_EQ(security.jwt->key_file, "keys");
  EXPECT_EQ(security.jwt->verifier.algorithm, JwtVerifier::Algorithm::kEs256);
  EXPECT_EQ(security.jwt->verifier.audience, "us");
  EXPECT_EQ(security.jwt->verifier.issuer, "them");
  EXPECT_EQ(security.jwt->verifier.leeway, absl::Seconds(5));
  EXPECT_FALSE(security.reflection);  // for it is encrypted
  EXPECT_TRUE(Settle("")->security.reflection);
  EXPECT_FALSE(Settle("security { reflection: false }")->security.reflection);
}

TEST(ServerSettingsTest, SecurityThatIsIncompleteIsRefused) {
  struct Case {
    std::string config;
    std::string error;
  };
  for (const Case& c : {
           Case{"tls_certificate: 'a'", "--tls_key must be given"},
           Case{"tls_key: 'a'", "--tls_certificate must be given"},
           Case{"tls_client_ca: 'a'", "--tls_certificate must be given"},
           Case{"reload_interval { nanos: 1 }", "security.reload_interval is"},
           Case{"jwt { key_file: 'k' audience: 'a' }",
                "security.jwt.algorithm must be RS256 or ES256"},
           Case{"jwt { algorithm: RS256 audience: 'a' }",
                "security.jwt.key_file must be given"},
           Case{"jwt { algorithm: RS256 key_file: 'k' }",
                "security.jwt.audience must be given"},
           Case{"jwt { algorithm: RS256 key_file: 'k' audience: 'a' "
                "leeway { seconds: 301 } }",
                "security.jwt.leeway is"},
       }) {
    EXPECT_THAT(ErrorOf(Settle("security { " + c.config + " }")),
                HasSubstr(c.error));
  }
}

TEST(ListenAddressTest, AUnixSocketIsOfThisMachine) {
  const auto address = ParseListenAddress("unix:/run/server.sock");
  ASSERT_TRUE(address.ok());
  EXPECT_TRUE(address->is_unix);
  EXPECT_TRUE(address->loopback);
  EXPECT_EQ(address->host, "unix:/run/server.sock");
  EXPECT_FALSE(ParseListenAddress("unix:").ok());
}

TEST(ServerSettingsTest, MalformedTextIsNamedByLineAndColumn) {
  EXPECT_THAT(ErrorOf(Settle("scheduler {\n  max_step_token: 3\n}")),
              HasSubstr("server.textproto:2:17:"));
  EXPECT_THAT(ErrorOf(Settle("scheduler {")), HasSubstr("server.textproto:1:"));
}

struct OutOfRange {
  const char* config;
  const char* error;
};

constexpr OutOfRange kOutOfRange[] = {
    {"scheduler { max_step_tokens: 15 }",
     "scheduler.max_step_tokens is 15, must be from 16 to 8192"},
    {"scheduler { max_step_tokens: 8193 }", "scheduler.max_step_tokens"},
    {"scheduler { max_running_sequences: 0 }",
     "scheduler.max_running_sequences is 0, must be from 1 to 1024"},
    {"scheduler { max_running_sequences: 1025 }",
     "scheduler.max_running_sequences"},
    {"scheduler { max_queued_requests: 0 }", "scheduler.max_queued_requests"},
    {"scheduler { max_queued_requests: 100001 }",
     "scheduler.max_queued_requests"},
    {"scheduler { max_queued_tokens: 0 }", "scheduler.max_queued_tokens"},
    {"scheduler { step_time_target { nanos: 999999 } }",
     "scheduler.step_time_target"},
    {"scheduler { best_effort_share: 1.5 }", "scheduler.best_effort_share"},
    {"scheduler { ageing_period { nanos: 1 } }", "scheduler.ageing_period"},
    {"scheduler { classes { priority: 101 } }",
     "scheduler.classes[0].priority is 101"},
    {"scheduler { classes { } }",
     "scheduler.classes[0].default_target must be given"},
    {"scheduler { classes { default_target { total { seconds: -1 } } } }",
     "scheduler.classes[0].default_target.total"},
    {"scheduler { classes { default_target { total { seconds: 1 } } }"
     " classes { default_target { total { seconds: 2 } } } }",
     "scheduler.classes[1].priority is 0, must be of no other class"},
    {"request_limits { default_max_output_tokens: 0 }",
     "request_limits.default_max_output_tokens"},
    {"request_limits { default_deadline { nanos: 999999999 } }",
     "request_limits.default_deadline"},
    {"request_limits { default_deadline { seconds: 86401 } }",
     "request_limits.default_deadline is 24h1s, must be from 1s to 24h"},
    {"request_limits { slow_consumer_timeout { } }",
     "request_limits.slow_consumer_timeout"},
    {"request_limits { max_buffered_messages: 0 }",
     "request_limits.max_buffered_messages"},
    {"request_limits { max_buffered_messages: 65537 }",
     "request_limits.max_buffered_messages"},
    {"stall_timeout { nanos: 999999999 }",
     "stall_timeout is 999.999999ms, must be from 1s to 1h"},
    {"stall_timeout { seconds: 3601 }", "stall_timeout"},
    {"connection { max_request_bytes: 1023 }", "connection.max_request_bytes"},
    {"connection { max_request_bytes: 67108865 }",
     "connection.max_request_bytes"},
    {"connection { max_concurrent_streams: 0 }",
     "connection.max_concurrent_streams"},
    {"connection { max_metadata_bytes: 16385 }",
     "connection.max_metadata_bytes"},
    {"connection { max_connection_age { seconds: 9 } }",
     "connection.max_connection_age"},
    {"connection { max_connection_idle { seconds: 9 } }",
     "connection.max_connection_idle"},
    {"connection { keepalive_time { nanos: 1 } }", "connection.keepalive_time"},
    {"connection { keepalive_timeout { seconds: 601 } }",
     "connection.keepalive_timeout"},
    {"drain_timeout { seconds: 3601 }", "drain_timeout"},
    {"drain_timeout { seconds: -1 }", "drain_timeout"},
    {"attention_plans { pattern { dense { } } }",
     "attention_plans[0].name is \"\", must be 1 to 64 characters"},
    {"attention_plans { name: 'Fast' pattern { dense { } } }",
     "attention_plans[0].name is \"Fast\""},
    {"attention_plans { name: 'dense' pattern { dense { } } }",
     "attention_plans[0].name is \"dense\""},
    {"attention_plans { name: 'a' pattern { dense { } } }"
     "attention_plans { name: 'a' pattern { dense { } } }",
     "attention_plans[1].name is \"a\""},
    {"recall_sample_share: 1.5", "recall_sample_share is 1.5, must be from 0"},
    {"recall_sample_share: nan", "recall_sample_share is nan"},
    {"attention_plans { name: 'a' map { } }",
     "attention_plans[0].map.rules is 0 rules, must be 1 to 4096 rules"},
    {"attention_plans { name: 'a' map { rules { layers: 1 } } }",
     "attention_plans[0].map.rules[0].pattern must be one of dense, "},
    {"attention_plans { name: 'a' map { rules { pattern { "
     "sink_window { window_tokens: 0 } } } } }",
     "attention_plans[0].map.rules[0].pattern.sink_window.window_tokens is 0"},
    {"attention_plans { name: 'a' }",
     "attention_plans[0] must be a pattern or a map"},
    {"attention_plans { name: 'a' pattern {} }",
     "attention_plans[0].pattern must be one of dense, "},
    {"attention_plans { name: 'a' pattern { xattention { stride: 7 } } }",
     "attention_plans[0].pattern.xattention.stride is 7, must be 2, 4, "},
};

TEST(ServerSettingsTest, PlansAreBounded) {
  std::string config;
  for (int i = 0; i < 64; ++i) {
    config += "attention_plans { name: 'p" + std::to_string(i) +
              "' pattern { dense { } } }";
  }
  EXPECT_TRUE(Settle(config).ok());
  config += "attention_plans { name: 'p' pattern { dense { } } }";
  EXPECT_THAT(ErrorOf(Settle(config)),
              HasSubstr("attention_plans is 65 plans, must be at most 64"));
}

TEST(ServerSettingsTest, PlanNamesAreBounded) {
  const auto named = [](size_t length) {
    return Settle("attention_plans { name: '" + std::string(length, 'a') +
                  "' pattern { dense { } } }");
  };
  EXPECT_TRUE(named(64).ok());
  EXPECT_THAT(ErrorOf(named(65)), HasSubstr("attention_plans[0].name"));
}

TEST(ServerSettingsTest, ValuesOutOfRangeAreNamed) {
  for (const OutOfRange& bad : kOutOfRange) {
    EXPECT_THAT(ErrorOf(Settle(bad.config)), HasSubstr(bad.error))
        << bad.config;
  }
}

TEST(ServerSettingsTest, AFlagOutOfRangeIsNamedAsAFlag) {
  EXPECT_THAT(ErrorOf(Settle("", {.max_step_tokens = 1})),
              HasSubstr("--max_step_tokens is 1, must be from 16 to 8192"));
  EXPECT_THAT(ErrorOf(Settle("", {.drain_timeout = -absl::Seconds(1)})),
              HasSubstr("--drain_timeout is -1s"));
}

TEST(ServerSettingsTest, AllErrorsComeTogether) {
  const std::string error =
      ErrorOf(Settle("scheduler { max_step_tokens: 1 }"
                     " drain_timeout { seconds: -1 }"));
  EXPECT_THAT(error, HasSubstr("max_step_tokens"));
  EXPECT_THAT(error, HasSubstr("drain_timeout"));
}

TEST(ByteSizeTest, ReadsUnits) {
  EXPECT_EQ(ParseByteSize("0").value(), 0);
  EXPECT_EQ(ParseByteSize("4096").value(), 4096);
  EXPECT_EQ(ParseByteSize("4096B").value(), 4096);
  EXPECT_EQ(ParseByteSize("3KiB").value(), 3 << 10);
  EXPECT_EQ(ParseByteSize("512MiB").value(), int64_t{512} << 20);
  EXPECT_EQ(ParseByteSize("1.5GiB").value(), int64_t{3} << 29);
  EXPECT_EQ(ParseByteSize("2TiB").value(), int64_t{2} << 40);
  EXPECT_EQ(ParseByteSize("1152921504606846976").value(), int64_t{1} << 60);
}

TEST(ByteSizeTest, RefusesWhatIsNoSize) {
  for (const char* text :
       {"", "B", "KiB", "-1", "1e9", "0x10", "1 GiB", "1GB", "GiB1", "nan",
        "inf", "1..5", "1152921504606846978TiB", "99999999999999999999"}) {
    EXPECT_FALSE(ParseByteSize(text).ok()) << text;
  }
}

TEST(ListenAddressTest, ReadsHostAndPort) {
  struct Case {
    const char* text;
    const char* host;
    int port;
    bool loopback;
  };
  for (const Case& c :
       {Case{"127.0.0.1:9000", "127.0.0.1", 9000, true},
        Case{"127.1.2.3:0", "127.1.2.3", 0, true},
        Case{"localhost:65535", "localhost", 65535, true},
        Case{"[::1]:9000", "[::1]", 9000, true},
        Case{"0.0.0.0:9000", "0.0.0.0", 9000, false},
        Case{"[::]:9000", "[::]", 9000, false},
        Case{"127.example.com:1", "127.example.com", 1, false},
        Case{"localhost.example.com:1", "localhost.example.com", 1, false}}) {
    const auto address = ParseListenAddress(c.text);
    ASSERT_TRUE(address.ok()) << c.text;
    EXPECT_EQ(address->host, c.host);
    EXPECT_EQ(address->port, c.port);
    EXPECT_EQ(address->loopback, c.loopback) << c.text;
  }
}

TEST(ListenAddressTest, RefusesOthers) {
  for (const char* text : {"", ":", "9000", ":9000", "a:", "a:b", "a:-1",
                           "a:65536", "a:999999", "a: 1", "::1:9000"}) {
    EXPECT_FALSE(ParseListenAddress(text).ok()) << text;
  }
}

TEST(SettleSettingsTest, AStepMustHoldEverySequenceAndAPage) {
  EXPECT_TRUE(SettleSettings("", "", {.max_step_tokens = 95}).ok());
  const absl::Status flag =
      SettleSettings("", "", {.max_step_tokens = 94}).status();
  EXPECT_EQ(flag.message(),
            "--max_step_tokens is 94, must be at least 95: "
            "max_running_sequences, which is 32, and 63");
  const absl::Status field =
      SettleSettings("scheduler { max_step_tokens: 100 }", "",
                     {.max_running_sequences = 38})
          .status();
  EXPECT_EQ(field.message(),
            "scheduler.max_step_tokens is 100, must be at least 101: "
            "max_running_sequences, which is 38, and 63");
}

}  // namespace
}  // namespace sparseserve
