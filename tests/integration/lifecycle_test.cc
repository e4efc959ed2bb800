// How the server process starts, refuses to start, and stops.

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparseserve/v1/inference_service.pb.h"
#include "tests/integration/server_process.h"
#include "tests/server/rpc/status_parts.h"
#include "tests/server/rpc/test_call.h"
#include "tests/testing/default_model.h"

namespace sparseserve {
namespace {

using testing::ChildProcess;
using testing::DefaultModelPath;
using testing::FailedStart;
using ::testing::HasSubstr;
using testing::PartsOf;
using testing::RunServer;
using testing::ServerProcess;
using testing::StatusParts;
using testing::TestCall;
using testing::TestChannel;

constexpr char kStream[] = "/sparseserve.v1.InferenceService/StreamGenerate";

std::string Request(int tokens) {
  v1::StreamGenerateRequest request;
  auto& options = *request.mutable_options();
  options.set_text("Once upon a time");
  options.mutable_stop()->set_max_output_tokens(tokens);
  options.mutable_stop()->set_ignore_eos(true);
  return request.SerializeAsString();
}

int TokensOf(TestCall& call) {
  int tokens = 0;
  v1::StreamGenerateResponse message;
  while (call.Read(message)) tokens += message.output().token_ids_size();
  return tokens;
}

std::string WriteConfig(const std::string& text) {
  const std::string path = ::testing::TempDir() + "lifecycle.textproto";
  std::ofstream(path) << text;
  return path;
}

TEST(StartTest, SaysWhatItServesAndWhere) {
  ServerProcess server({"--model_name=Tiny", "--threads=1"});
  const std::string log = server.process().Output();
  EXPECT_THAT(log, HasSubstr("model models/Tiny: llama, 134 M parameters"));
  EXPECT_THAT(log, HasSubstr("device: cpu"));
  EXPECT_THAT(log, HasSubstr("1 thread"));
  EXPECT_THAT(log, HasSubstr("prompts up to 8191 tokens"));
  server.process().Send(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST(StartTest, PrintsItsVersion) {
  const FailedStart result = RunServer({"--version"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.output, HasSubstr("sparseserve-server 0."));
}

TEST(StartTest, HelpShowsFlagsAndExamples) {
  const FailedStart result = RunServer({"--help"});
  EXPECT_THAT(result.output, HasSubstr("sparseserve-server --model="));
  EXPECT_THAT(result.output, HasSubstr("--drain_timeout"));
}

TEST(StartTest, RefusesWhatItCannotServe) {
  const std::string broken = ::testing::TempDir() + "broken.gguf";
  std::ofstream(broken) << "GGUF and nothing else";
  struct Case {
    std::vector<std::string> flags;
    std::string error;
  };
  const std::string model = "--model=" + DefaultModelPath();
  for (const Case& c : {
           Case{{}, "--model is required"},
           Case{{"--model=/nonexistent.gguf"}, "/nonexistent.gguf"},
           Case{{"--model=" + broken}, broken},
           Case{{model, "stray"}, "unexpected argument stray"},
           Case{{model, "--listen=9000"}, "\"9000\" is not host:port"},
           Case{{model, "--listen=0.0.0.0:0"},
                "give --tls_certificate and --tls_key"},
           Case{{model, "--listen=0.0.0.0:0"}, "--insecure"},
           Case{{model, "--listen=unix:"}, "\"unix:\" is not host:port"},
           Case{{model, "--tls_certificate=a.crt"}, "--tls_key"},
           Case{{model, "--tls_key=a.key"}, "--tls_certificate"},
           Case{{model, "--tls_client_ca=a.crt"}, "--tls_certificate"},
           Case{{model, "--admin_listen=0.0.0.0:0"},
                "--admin_listen=0.0.0.0:0 is reachable"},
           Case{{model, "--health_listen=x"}, "\"x\" is not host:port"},
           Case{{model, "--metrics_listen=unix:/tmp/m"}, "must be host:port"},
           Case{{model, "--listen=127.0.0.1:0",
                 "--metrics_listen=", "--tls_certificate=/nonexistent.crt",
                 "--tls_key=/nonexistent.key"},
                "cannot read /nonexistent.crt"},
           Case{{model, "--metrics_listen=x"}, "\"x\" is not host:port"},
           Case{{model, "--model_name=a/b"}, "--model_name"},
           Case{{model, "--kv_cache_bytes=lots"}, "\"lots\" is not a size"},
           Case{{model, "--kv_cache_bytes=1MiB"}, "kv_cache_bytes"},
           Case{{model, "--compute_dtype=f8"}, "compute_dtype"},
           Case{{model, "--simd=mmx"}, "simd"},
           Case{{model, "--threads=-1"}, "threads"},
           Case{{model, "--max_step_tokens=1"},
                "--max_step_tokens is 1, must be from 16 to 8192"},
           Case{{model, "--config=/nonexistent"}, "/nonexistent"},
           Case{{model, "--config=" + WriteConfig("drain_timeout: 3")},
                "lifecycle.textproto:1:"},
       }) {
    const FailedStart result = RunServer(c.flags);
    EXPECT_EQ(result.status, 2) << result.output;
    EXPECT_THAT(result.output, HasSubstr(c.error));
  }
}

TEST(StartTest, RefusesAPortThatIsTaken) {
  ServerProcess first({});
  const FailedStart grpc = RunServer(
      {"--model=" + DefaultModelPath(), "--metrics_listen=127.0.0.1:0",
       "--listen=127.0.0.1:" + std::to_string(first.port())});
  EXPECT_EQ(grpc.status, 2);
  EXPECT_THAT(grpc.output, HasSubstr("cannot listen on 127.0.0.1:"));
  const FailedStart metrics = RunServer(
      {"--model=" + DefaultModelPath(), "--listen=127.0.0.1:0",
       "--metrics_listen=127.0.0.1:" + std::to_string(first.metrics_port())});
  EXPECT_EQ(metrics.status, 2);
  EXPECT_THAT(metrics.output, HasSubstr(std::to_string(first.metrics_port())));
}

TEST(StopTest, ATermFinishesWhatRunsAndExitsWith0) {
  ServerProcess server({});
  TestChannel channel(server.port());
  TestCall running(channel, kStream, Request(60));
  EXPECT_TRUE(running.Read().has_value());
  server.process().Send(SIGTERM);
  server.WaitForSeries("sparseserve_server_draining", {}, 1);
  TestCall late(channel, kStream, Request(1));
  EXPECT_EQ(late.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  // The first token was read above.
  EXPECT_GE(TokensOf(running), 59 - 8);
  EXPECT_TRUE(running.Finish().ok());
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST(StopTest, ATermUnderFiftyStreamsFailsNone) {
  constexpr int kStreams = 50;
  constexpr int kTokens = 12;
  ServerProcess server({"--max_running_sequences=50",
                        "--health_listen=127.0.0.1:0", "--drain_timeout=5m"});
  TestChannel probe(server.health_port());
  // HealthCheckRequest{service}; 1 is SERVING, 2 NOT_SERVING.
  TestCall watch(probe, "/grpc.health.v1.Health/Watch",
                 std::string("\x0A\x09", 2) + "readiness");
  EXPECT_EQ(watch.Read(), std::string("\x08\x01", 2));
  TestChannel channel(server.port());
  std::vector<std::unique_ptr<TestCall>> streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(
        std::make_unique<TestCall>(channel, kStream, Request(kTokens)));
  }
  std::vector<int> tokens(kStreams);
  v1::StreamGenerateResponse first;
  for (int i = 0; i < kStreams; ++i) {
    ASSERT_TRUE(streams[i]->Read(first));
    tokens[i] = first.output().token_ids_size();
  }
  server.process().Send(SIGTERM);
  EXPECT_EQ(watch.Read(), std::string("\x08\x02", 2));
  // The watch is told just before the queue refuses.
  std::unique_ptr<TestCall> late;
  do {
    late = std::make_unique<TestCall>(channel, kStream, Request(1));
  } while (late->Finish().ok());
  const StatusParts parts = PartsOf(late->Finish());
  EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(parts.reason, "DRAINING");
  EXPECT_THAT(late->trailers(), ::testing::Contains(::testing::Pair(
                                    "grpc-retry-pushback-ms", "0")));
  for (int i = 0; i < kStreams; ++i) {
    EXPECT_EQ(tokens[i] + TokensOf(*streams[i]), kTokens) << i;
    EXPECT_TRUE(streams[i]->Finish().ok()) << i;
  }
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST(StopTest, AnAdminMayAskForTheSame) {
  ServerProcess server({"--admin_listen=127.0.0.1:0"});
  const std::string line = server.process().WaitForLine(" admin=");
  TestChannel admin(
      std::atoi(line.c_str() + line.find(':', line.find(" admin=")) + 1));
  TestChannel channel(server.port());
  TestCall running(channel, kStream, Request(40));
  EXPECT_TRUE(running.Read().has_value());
  TestCall drain(admin, "/sparseserve.v1.AdminService/Drain", "");
  EXPECT_TRUE(drain.Finish().ok());
  TokensOf(running);
  EXPECT_TRUE(running.Finish().ok());
  EXPECT_EQ(server.process().Wait(), 0);
  EXPECT_NE(server.process().WaitForLine("\"event\":\"audit\""), "");
}

TEST(StopTest, TheDrainTimeoutCancelsTheRest) {
  ServerProcess server({"--drain_timeout=200ms"});
  TestChannel channel(server.port());
  TestCall running(channel, kStream, Request(4000));
  EXPECT_TRUE(running.Read().has_value());
  server.process().Send(SIGINT);
  const StatusParts parts = PartsOf(running.Finish());
  EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(parts.reason, "DRAINING");
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST(StopTest, ASecondSignalExitsAtOnce) {
  ServerProcess server({});
  TestChannel channel(server.port());
  TestCall running(channel, kStream, Request(4000));
  EXPECT_TRUE(running.Read().has_value());
  server.process().Send(SIGTERM);
  server.process().WaitForLine("stopping");
  server.process().Send(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 1);
}

TEST(KeepaliveTest, AClientThatHangsIsDisconnected) {
  // However patient the server is with slow readers.
  ServerProcess server({"--config=" + WriteConfig(R"(
    request_limits { max_buffered_messages: 65536
                     slow_consumer_timeout { seconds: 3600 } }
    connection { keepalive_time { seconds: 1 }
                 keepalive_timeout { seconds: 1 } })")});
  ChildProcess client(
      {SPARSESERVE_STREAM_CLIENT, std::to_string(server.port()), "8000"});
  EXPECT_EQ(client.WaitForLine("message"), "message");
  client.Send(SIGSTOP);
  server.WaitForSeries("sparseserve_requests_cancelled_total",
                       {"cause=\"client\""}, 1);
  server.ExpectIdle();
}

TEST(OverloadTest, AFullQueueIsRefusedAndTheRestIsServed) {
  ServerProcess server(
      {"--max_running_sequences=1", "--max_queued_requests=1"});
  TestChannel channel(server.port());
  std::vector<std::unique_ptr<TestCall>> calls;
  for (int i = 0; i < 6; ++i) {
    calls.push_back(std::make_unique<TestCall>(channel, kStream, Request(100)));
  }
  int served = 0;
  for (auto& call : calls) {
    const int tokens = TokensOf(*call);
    const StatusParts parts = PartsOf(call->Finish());
    if (parts.code == grpc::StatusCode::OK) {
      ++served;
      EXPECT_EQ(tokens, 100);
    } else {
      EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
      EXPECT_EQ(parts.reason, "QUEUE_FULL");
      EXPECT_TRUE(parts.retry.has_value());
    }
  }
  EXPECT_GE(served, 1);
  EXPECT_LE(served, 3);
  EXPECT_EQ(server.Series("sparseserve_requests_rejected_total",
                          {"reason=\"queue_full\""}),
            6 - served);
  server.ExpectIdle();
}

}  // namespace
}  // namespace sparseserve
