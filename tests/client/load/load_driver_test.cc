#include "client/load/load_driver.h"

#include <memory>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/client/scripted_server.h"

namespace sparseserve {
namespace {

// Tries nothing again.
std::unique_ptr<Client> Connect(const ScriptedServer& server) {
  auto client = Client::Connect(
      {.server = server.address(), .service_config_json = "{}"});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

PromptSource Prompts() {
  auto prompts = PromptSource::Create(
      "0123456789",
      [](absl::string_view text) -> absl::StatusOr<std::vector<int32_t>> {
        return std::vector<int32_t>(text.begin(), text.end());
      },
      {});
  EXPECT_TRUE(prompts.ok());
  return *std::move(prompts);
}

// What a run of `schedule` against `server` recorded.
struct DriverRun {
  DriverRun(const ScriptedServer& server, ArrivalSchedule schedule,
            RequestPlan::Options asks, LoadDriver::Options options = {})
      : plan(std::move(asks)), recorder(plan.classes()) {
    const auto client = Connect(server);
    const PromptSource prompts = Prompts();
    LoadDriver driver(*client, plan, prompts, std::move(options));
    LoadRun run(std::move(schedule), plan);
    result = driver.Run(
        run, recorder, [this](const LoadProgress&) { ++progress; },
        [this](const PlannedRequest& planned, const RequestOutcome& outcome,
               Verdict) {
          EXPECT_EQ(planned.index, outcome.index);
          outcomes.push_back(outcome);
        });
    EXPECT_EQ(run.in_flight(), 0);
  }

  RequestPlan plan;
  LoadRecorder recorder;
  LoadDriver::Result result;
  std::vector<RequestOutcome> outcomes;
  int progress = 0;
};

TEST(LoadDriverTest, AnOpenLoopSendsAllAndRecordsThem) {
  const ScriptedServer server({});
  const std::vector<absl::Duration> times(40, absl::Milliseconds(20));
  const DriverRun run(server, ArrivalSchedule::AtTimes(times, {}),
                      {.classes = {{.name = "a",
                                    .time_to_first_token = absl::Hours(1),
                                    .plan = "sparse"}},
                       .prompt_tokens = {.least = 7, .most = 7},
                       .output_tokens = {.least = 3, .most = 3}});
  EXPECT_EQ(server.attempts(), 40);
  const LoadTally& all = run.recorder.all();
  EXPECT_EQ(all.count(EndKind::kFinished), 40);
  EXPECT_EQ(all.met, 40);
  EXPECT_EQ(all.output_tokens, 120);
  EXPECT_EQ(all.first_token.count(), 40);
  EXPECT_EQ(all.inter_token.count(), 80);
  for (const RequestOutcome& outcome : run.outcomes) {
    EXPECT_GE(outcome.sent, absl::Milliseconds(20));
    EXPECT_LE(outcome.sent, outcome.first_token);
    EXPECT_LE(outcome.first_token, outcome.last_token);
    EXPECT_LE(outcome.last_token, outcome.ended);
    EXPECT_LE(outcome.ended, run.result.elapsed);
  }
  const v1::GenerateOptions options = server.last_options();
  EXPECT_EQ(options.token_ids().ids_size(), 7);
  EXPECT_EQ(options.stop().max_output_tokens(), 3);
  EXPECT_EQ(options.latency_target().time_to_first_token().seconds(), 3600);
  EXPECT_EQ(options.attention().plan(), "sparse");
}

TEST(LoadDriverTest, AClosedLoopSendsOneAfterTheOther) {
  const ScriptedServer server({});
  const DriverRun run(server, ArrivalSchedule::Closed(Ramp(1), {.requests = 5}),
                      {.classes = {{.name = "a"}}});
  ASSERT_EQ(run.outcomes.size(), 5u);
  for (size_t i = 1; i < 5; ++i) {
    EXPECT_GE(run.outcomes[i].sent, run.outcomes[i - 1].ended);
  }
}

TEST(LoadDriverTest, RefusalsAreCountedAndNotTriedAgain) {
  const ScriptedServer server({.refusals = 3});
  const DriverRun run(server, ArrivalSchedule::Closed(Ramp(1), {.requests = 5}),
                      {.classes = {{.name = "a"}}});
  EXPECT_EQ(server.attempts(), 5);
  const LoadTally& all = run.recorder.all();
  EXPECT_EQ(all.count(EndKind::kRefused), 3);
  EXPECT_EQ(
      all.reasons[static_cast<size_t>(EndKind::kRefused)].at("QUEUE_FULL"), 3);
  EXPECT_EQ(all.count(EndKind::kFinished), 2);
}

TEST(LoadDriverTest, CancelsItsShareOnTheServerToo) {
  const ScriptedServer server({.hangs = true});
  const DriverRun run(server,
                      ArrivalSchedule::AtTimes({absl::ZeroDuration()}, {}),
                      {.classes = {{.name = "a"}},
                       .cancel_share = 1,
                       .cancel_after = absl::Milliseconds(50)});
  EXPECT_EQ(run.recorder.all().count(EndKind::kCancelled), 1);
  EXPECT_EQ(run.recorder.all().missed, 0);
  // On a busy machine the cancel can overtake the request.
  if (server.attempts() > 0) server.WaitForCancellation();
}

TEST(LoadDriverTest, ADeadlineIsSentWithTheCall) {
  const ScriptedServer server({.pieces = {}, .hangs = true});
  const DriverRun run(
      server, ArrivalSchedule::AtTimes({absl::ZeroDuration()}, {}),
      {.classes = {{.name = "a", .deadline = absl::Milliseconds(50)}}});
  EXPECT_EQ(run.recorder.all().count(EndKind::kExpired), 1);
  EXPECT_EQ(run.recorder.all().missed, 1);
}

TEST(LoadDriverTest, AStopEndsWhatRunsAndSendsNoMore) {
  const ScriptedServer server({.hangs = true});
  std::stop_source source;
  LoadDriver::Options options;
  options.call.stop = source.get_token();
  const std::jthread stops([&] {
    while (server.attempts() == 0) std::this_thread::yield();
    source.request_stop();
  });
  const DriverRun run(
      server,
      ArrivalSchedule::AtTimes({absl::ZeroDuration(), absl::Hours(1)}, {}),
      {.classes = {{.name = "a"}}}, std::move(options));
  EXPECT_TRUE(run.result.interrupted);
  EXPECT_EQ(run.recorder.all().ended, 1);
  EXPECT_EQ(run.recorder.all().count(EndKind::kInterrupted), 1);
  EXPECT_LT(run.result.elapsed, absl::Hours(1));
}

TEST(LoadDriverTest, TheDrainTimeoutEndsWhatIsLeft) {
  const ScriptedServer server({.hangs = true});
  const DriverRun run(server,
                      ArrivalSchedule::AtTimes({absl::ZeroDuration()}, {}),
                      {.classes = {{.name = "a"}}},
                      {.drain_timeout = absl::Milliseconds(60),
                       .progress_interval = absl::Milliseconds(10)});
  EXPECT_FALSE(run.result.interrupted);
  EXPECT_EQ(run.recorder.all().count(EndKind::kInterrupted), 1);
  EXPECT_GE(run.progress, 1);
}

TEST(LoadDriverTest, WhatCannotBeSentIsAFailure) {
  const ScriptedServer server({});
  LoadDriver::Options options;
  options.call.metadata = {{"Bad Key", "x"}};
  const DriverRun run(server, ArrivalSchedule::Closed(Ramp(2), {.requests = 3}),
                      {.classes = {{.name = "a"}}}, std::move(options));
  EXPECT_EQ(server.attempts(), 0);
  EXPECT_EQ(run.recorder.all().count(EndKind::kFailed), 3);
}

}  // namespace
}  // namespace sparseserve
