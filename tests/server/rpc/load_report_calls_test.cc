// What callers, and gateways beside them, are told of the server's load.

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/load_reporter.h"
#include "tests/server/rpc/raw_call.h"
#include "tests/server/rpc/server_fixture.h"
#include "xds/service/orca/v3/orca.pb.h"

namespace sparseserve {
namespace {

using testing::BinaryTrailer;
using testing::kGeneratePath;
using testing::kStreamGeneratePath;
using testing::RawTrailers;
using testing::StreamRequest;
using testing::TestCall;
using testing::TextOptions;
using testing::WholeRequest;
using xds::data::orca::v3::OrcaLoadReport;
using xds::service::orca::v3::OrcaLoadReportRequest;

constexpr char kOrcaPath[] =
    "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

class LoadReportCallsTest : public testing::ServerFixture {
 protected:
  OrcaLoadReport TrailerOf(const std::string& path,
                           const std::string& request) {
    const std::string value = BinaryTrailer(
        RawTrailers(server().port(), path, request), kLoadTrailer);
    EXPECT_FALSE(value.empty());
    OrcaLoadReport report;
    EXPECT_TRUE(report.ParseFromString(value));
    return report;
  }
};

TEST_F(LoadReportCallsTest, GenerationsEndWithAReportOfTheirCost) {
  Start();
  const OrcaLoadReport whole = TrailerOf(
      kGeneratePath, WholeRequest(TextOptions("abcde", 3)).SerializeAsString());
  EXPECT_EQ(whole.request_cost().at("prompt_tokens"), 5);
  EXPECT_EQ(whole.request_cost().at("generated_tokens"), 3);
  EXPECT_EQ(whole.named_metrics().at("queue_depth"), 0);
  EXPECT_EQ(whole.named_metrics().at("kv_cache_usage"), 0);
  EXPECT_EQ(whole.application_utilization(), 0);
  const OrcaLoadReport stream =
      TrailerOf(kStreamGeneratePath, StreamRequest(TextOptions("ab", 4)));
  EXPECT_EQ(stream.request_cost().at("prompt_tokens"), 2);
  EXPECT_EQ(stream.request_cost().at("generated_tokens"), 4);
}

TEST_F(LoadReportCallsTest, RefusedOnesDoToo) {
  Start();
  const OrcaLoadReport report =
      TrailerOf(kStreamGeneratePath, StreamRequest(TextOptions("", 4)));
  EXPECT_EQ(report.request_cost().at("generated_tokens"), 0);
}

TEST_F(LoadReportCallsTest, ReportsComeOutOfBandWhileOthersRun) {
  settings_.max_running_sequences = 2;
  settings_.max_queued_requests = 10;
  gated_ = true;
  Start();
  TestCall running(channel(), kStreamGeneratePath,
                   StreamRequest(TextOptions("abc", 20)));
  // Two steps: what the first began is known when the second is there.
  gate().Allow(1);
  gate().WaitForArrivals(2);
  OrcaLoadReportRequest request;
  request.mutable_report_interval()->set_seconds(1);
  TestCall reports(channel(), kOrcaPath, request.SerializeAsString());
  OrcaLoadReport report;
  ASSERT_TRUE(reports.Read(report));
  EXPECT_EQ(report.application_utilization(), 0.5);
  EXPECT_GT(report.named_metrics().at("kv_cache_usage"), 0);
  EXPECT_TRUE(report.request_cost().empty());

  gate().Open();
  EXPECT_TRUE(ReadAll(running).report.has_value());
  // The next ones come of themselves; one of them counts what has ended.
  do {
    ASSERT_TRUE(reports.Read(report));
  } while (report.rps_fractional() == 0);
  EXPECT_EQ(report.application_utilization(), 0);
  EXPECT_GT(report.cpu_utilization(), 0);
  EXPECT_EQ(report.eps(), 0);
  reports.Cancel();
  EXPECT_EQ(reports.Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(LoadReportCallsTest, TheConfigCanTurnThemOff) {
  settings_.report_load = false;
  Start();
  const std::string trailers =
      RawTrailers(server().port(), kGeneratePath,
                  WholeRequest(TextOptions("abcde", 3)).SerializeAsString());
  EXPECT_THAT(trailers, ::testing::HasSubstr("grpc-status"));
  EXPECT_THAT(trailers, ::testing::Not(::testing::HasSubstr(kLoadTrailer)));
  TestCall reports(channel(), kOrcaPath, "");
  EXPECT_EQ(reports.Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace sparseserve
