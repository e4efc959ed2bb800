// What probes hear on the port of their own, from before the model is there to
// the end.

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "server/rpc/health_server.h"
#include "tests/server/rpc/server_fixture.h"

namespace sparseserve {
namespace {

using testing::kStreamGeneratePath;
using testing::ServerFixture;
using testing::StreamRequest;
using testing::TestCall;
using testing::TestChannel;
using testing::TextOptions;

constexpr char kCheckPath[] = "/grpc.health.v1.Health/Check";
constexpr char kWatchPath[] = "/grpc.health.v1.Health/Watch";
const std::string kServing("\x08\x01", 2);
const std::string kNotServing("\x08\x02", 2);

// HealthCheckRequest{service}.
std::string Asking(const std::string& service) {
  if (service.empty()) return "";
  return std::string("\x0A") + static_cast<char>(service.size()) + service;
}

class HealthTest : public ServerFixture {
 protected:
  HealthTest() {
    auto health = HealthServer::Start("127.0.0.1:0");
    EXPECT_TRUE(health.ok()) << health.status();
    health_ = *std::move(health);
    probe_ = std::make_unique<TestChannel>(health_->port());
  }
  // The answer's bytes; empty if the service is unknown.
  std::string Check(const std::string& service) {
    TestCall call(*probe_, kCheckPath, Asking(service));
    const std::string answer = call.Read().value_or("");
    EXPECT_EQ(call.Finish().error_code(), answer.empty()
                                              ? grpc::StatusCode::NOT_FOUND
                                              : grpc::StatusCode::OK);
    return answer;
  }
  std::unique_ptr<TestCall> Watch(const std::string& service) {
    return std::make_unique<TestCall>(*probe_, kWatchPath, Asking(service));
  }

  std::unique_ptr<TestChannel> probe_;
};

TEST_F(HealthTest, AProcessThatLoadsIsAliveAndNotReady) {
  EXPECT_EQ(Check("liveness"), kServing);
  EXPECT_EQ(Check("readiness"), kNotServing);
  EXPECT_EQ(Check(""), kNotServing);
  EXPECT_EQ(Check("models/fake"), "");
  const auto readiness = Watch("readiness");
  EXPECT_EQ(readiness->Read(), kNotServing);
  Start();
  EXPECT_EQ(readiness->Read(), kServing);
  for (const char* service :
       {"liveness", "readiness", "", "models/fake",
        "sparseserve.v1.InferenceService", "sparseserve.v1.ModelService"}) {
    EXPECT_EQ(Check(service), kServing) << service;
  }
  EXPECT_EQ(Check("models/other"), "");
  // Nothing but health is here.
  TestCall call(*probe_, kStreamGeneratePath,
                StreamRequest(TextOptions("a", 1)));
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(HealthTest, AStuckEngineIsSeenAndItsRecoveryToo) {
  gated_ = true;
  settings_.stall_timeout = absl::Seconds(1);
  Start();
  const auto liveness = Watch("liveness");
  const auto readiness = Watch("readiness");
  const auto model = Watch("models/fake");
  EXPECT_EQ(liveness->Read(), kServing);
  EXPECT_EQ(readiness->Read(), kServing);
  EXPECT_EQ(model->Read(), kServing);
  TestCall stuck(channel(), kStreamGeneratePath,
                 StreamRequest(TextOptions("ab", 2)));
  EXPECT_EQ(liveness->Read(), kNotServing);
  EXPECT_EQ(readiness->Read(), kNotServing);
  EXPECT_EQ(model->Read(), kNotServing);
  gate().Open();
  EXPECT_EQ(liveness->Read(), kServing);
  EXPECT_EQ(readiness->Read(), kServing);
  EXPECT_EQ(model->Read(), kServing);
  EXPECT_TRUE(stuck.Finish().ok());
}

TEST_F(HealthTest, WhoDrainsLivesOn) {
  Start();
  const auto readiness = Watch("readiness");
  EXPECT_EQ(readiness->Read(), kServing);
  server().Drain(absl::Minutes(1));
  EXPECT_EQ(readiness->Read(), kNotServing);
  EXPECT_EQ(Check("models/fake"), kNotServing);
  EXPECT_EQ(Check("liveness"), kServing);
}

}  // namespace
}  // namespace sparseserve
