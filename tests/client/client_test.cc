#include "client/client.h"

#include <atomic>
#include <future>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/scripted_server.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;

std::unique_ptr<Client> ClientOf(const ScriptedServer& server) {
  auto client = Client::Connect({.server = server.address()});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

v1::GenerateOptions Prompt(const std::string& text) {
  v1::GenerateOptions options;
  options.set_text(text);
  return options;
}

bool Ignore(const v1::OutputDelta&) { return true; }

TEST(ClientTest, StreamsPiecesThenReturnsTheReport) {
  ScriptedServer server({.pieces = {"a", "", "ß", "🌍"}});
  std::vector<std::string> pieces;
  const auto report = ClientOf(server)->Generate(
      Prompt("hello"), [&pieces](const v1::OutputDelta& output) {
        pieces.push_back(output.text());
        return true;
      });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(pieces, ElementsAre("a", "", "ß", "🌍"));
  EXPECT_EQ(report->request_id(), "request-7");
  EXPECT_EQ(report->usage().output_tokens(), 4);
  EXPECT_EQ(server.last_options().text(), "hello");
}

// What a generation that runs beside its caller told.
struct Told {
  std::vector<std::string> pieces;
  std::promise<absl::StatusOr<v1::GenerationReport>> end;

  Client::GenerationEvents Events() {
    return {.on_output =
                [this](const v1::OutputDelta& output) {
                  pieces.push_back(output.text());
                },
            .on_end =
                [this](absl::StatusOr<v1::GenerationReport> report) {
                  end.set_value(std::move(report));
                }};
  }
};

TEST(ClientTest, StartedGenerationsTellPiecesThenTheReport) {
  ScriptedServer server({.pieces = {"a", "", "ß", "🌍"}});
  const auto client = ClientOf(server);
  std::vector<Told> told(30);
  for (Told& one : told) {
    EXPECT_TRUE(client->StartGenerate(Prompt("hello"), one.Events()).ok());
  }
  for (Told& one : told) {
    const auto report = one.end.get_future().get();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->usage().output_tokens(), 4);
    EXPECT_THAT(one.pieces, ElementsAre("a", "", "ß", "🌍"));
  }
  EXPECT_EQ(server.attempts(), 30);
}

TEST(ClientTest, AStopEndsAStartedGeneration) {
  ScriptedServer server({.pieces = {"a"}, .hangs = true});
  const auto client = ClientOf(server);
  std::stop_source source;
  Told told;
  EXPECT_TRUE(client
                  ->StartGenerate(Prompt("hello"), told.Events(),
                                  {.stop = source.get_token()})
                  .ok());
  while (server.attempts() == 0) std::this_thread::yield();
  source.request_stop();
  EXPECT_EQ(told.end.get_future().get().status(),
            absl::CancelledError("stopped by the caller"));
  server.WaitForCancellation();
}

TEST(ClientTest, AStopBeforeTheStartEndsAGenerationToo) {
  ScriptedServer server({.hangs = true});
  const auto client = ClientOf(server);
  std::stop_source source;
  source.request_stop();
  Told told;
  EXPECT_TRUE(client
                  ->StartGenerate(Prompt("hello"), told.Events(),
                                  {.stop = source.get_token()})
                  .ok());
  EXPECT_TRUE(absl::IsCancelled(told.end.get_future().get().status()));
}

TEST(ClientTest, StartedGenerationsTellErrorsAsOthersDo) {
  {
    ScriptedServer server({.refusals = 9});
    const auto client = ClientOf(server);
    Told told;
    EXPECT_TRUE(client->StartGenerate(Prompt("hello"), told.Events()).ok());
    const auto report = told.end.get_future().get();
    EXPECT_EQ(DecodeErrorDetails(report.status()).reason, "QUEUE_FULL");
    EXPECT_EQ(server.attempts(), 3);
  }
  {
    ScriptedServer server({.pieces = {}, .hangs = true});
    const auto client = ClientOf(server);
    Told told;
    EXPECT_TRUE(client
                    ->StartGenerate(Prompt("hello"), told.Events(),
                                    {.timeout = absl::Milliseconds(50)})
                    .ok());
    EXPECT_TRUE(absl::IsDeadlineExceeded(told.end.get_future().get().status()));
  }
  {
    ScriptedServer server({.reports = false});
    const auto client = ClientOf(server);
    Told told;
    EXPECT_TRUE(client->StartGenerate(Prompt("hello"), told.Events()).ok());
    EXPECT_TRUE(absl::IsInternal(told.end.get_future().get().status()));
  }
  {
    // Not UTF-8: the message cannot be read.
    ScriptedServer server({.pieces = {"fine", "\xff\xfe"}, .hangs = true});
    const auto client = ClientOf(server);
    Told told;
    EXPECT_TRUE(client->StartGenerate(Prompt("hello"), told.Events()).ok());
    EXPECT_TRUE(absl::IsInternal(told.end.get_future().get().status()));
    EXPECT_THAT(told.pieces, ElementsAre("fine"));
    server.WaitForCancellation();
  }
}

// Else a thread of gRPC's would be the last to hold the channel, and abort.
TEST(ClientTest, WaitsForWhatItStartedBeforeItIsGone) {
  const ScriptedServer server({.pieces = {"a"}, .hangs = true});
  auto client = ClientOf(server);
  std::stop_source source;
  std::atomic<bool> going = false;
  // True once the events were destroyed, after the end was told.
  std::atomic<bool> let_go = false;
  std::shared_ptr<void> held(nullptr, [&](void*) { let_go = true; });
  Client::GenerationEvents events = {
      .on_output = [](const v1::OutputDelta&) {},
      .on_end = [held =
                     std::move(held)](absl::StatusOr<v1::GenerationReport>) {}};
  EXPECT_TRUE(client
                  ->StartGenerate(Prompt("hello"), std::move(events),
                                  {.stop = source.get_token()})
                  .ok());
  const std::jthread stops([&] {
    going.wait(false);
    source.request_stop();
  });
  while (server.attempts() == 0) std::this_thread::yield();
  EXPECT_FALSE(let_go);
  going = true;
  going.notify_all();
  client.reset();
  EXPECT_TRUE(let_go);
}

TEST(ClientTest, DoesNotStartWhatCannotBeSent) {
  ScriptedServer server({});
  Told told;
  EXPECT_TRUE(absl::IsInvalidArgument(ClientOf(server)->StartGenerate(
      Prompt("hello"), told.Events(), {.metadata = {{"Bad Key", "x"}}})));
  EXPECT_EQ(server.attempts(), 0);
}

TEST(ClientTest, ReturnsAWholeAnswer) {
  ScriptedServer server({.pieces = {"one", " two"}});
  const auto answer = ClientOf(server)->GenerateText(Prompt("hello"));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text(), "one two");
  EXPECT_EQ(answer->report().finish_reason(), v1::FINISH_REASON_STOP);
}

TEST(ClientTest, CancelsWhenTheCallbackReturnsFalse) {
  ScriptedServer server({.pieces = {"a", "b", "c"}, .hangs = true});
  int calls = 0;
  const auto report = ClientOf(server)->Generate(
      Prompt("hello"),
      [&calls](const v1::OutputDelta&) { return ++calls < 2; });
  EXPECT_EQ(report.status(), absl::CancelledError("stopped by on_output"));
  EXPECT_EQ(calls, 2);
  server.WaitForCancellation();
}

TEST(ClientTest, CancelsWhenAnotherThreadRequestsAStop) {
  ScriptedServer server({.pieces = {"a"}, .hangs = true});
  std::stop_source source;
  std::atomic<bool> started = false;
  std::thread stopper([&] {
    started.wait(false);
    source.request_stop();
  });
  const auto report =
      ClientOf(server)->Generate(Prompt("hello"),
                                 [&started](const v1::OutputDelta&) {
                                   started = true;
                                   started.notify_all();
                                   return true;
                                 },
                                 {.stop = source.get_token()});
  stopper.join();
  EXPECT_EQ(report.status(), absl::CancelledError("stopped by the caller"));
  server.WaitForCancellation();
}

TEST(ClientTest, DoesNotStartACallThatWasStoppedBefore) {
  ScriptedServer server({.hangs = true});
  std::stop_source source;
  source.request_stop();
  const auto report = ClientOf(server)->Generate(Prompt("hello"), Ignore,
                                                 {.stop = source.get_token()});
  EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
  EXPECT_EQ(server.attempts(), 0);
}

TEST(ClientTest, EndsAtTheDeadline) {
  ScriptedServer server({.pieces = {}, .hangs = true});
  const auto report = ClientOf(server)->Generate(
      Prompt("hello"), Ignore, {.timeout = absl::Milliseconds(50)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(report.status())) << report.status();
}

TEST(ClientTest, TriesAgainWhereTheServerRefusesBeforeTheFirstMessage) {
  ScriptedServer server({.refusals = 2, .pieces = {"at last"}});
  std::string text;
  const auto report = ClientOf(server)->Generate(
      Prompt("hello"), [&text](const v1::OutputDelta& output) {
        text += output.text();
        return true;
      });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(text, "at last");
  EXPECT_EQ(server.attempts(), 3);
}

TEST(ClientTest, GivesUpAfterThreeAttempts) {
  ScriptedServer server({.refusals = 4});
  const auto answer = ClientOf(server)->GenerateText(Prompt("hello"));
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
  EXPECT_EQ(server.attempts(), 3);
}

TEST(ClientTest, DoesNotTryAgainAfterTheFirstMessage) {
  ScriptedServer server(
      {.pieces = {"half"},
       .status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone")});
  std::string text;
  const auto report = ClientOf(server)->Generate(
      Prompt("hello"), [&text](const v1::OutputDelta& output) {
        text += output.text();
        return true;
      });
  EXPECT_TRUE(absl::IsUnavailable(report.status())) << report.status();
  EXPECT_EQ(text, "half");
  EXPECT_EQ(server.attempts(), 1);
}

TEST(ClientTest, HandsOutTheDetailsOfAnError) {
  ScriptedServer server({.pieces = {}, .status = BadTopP()});
  const auto report = ClientOf(server)->Generate(Prompt("hello"), Ignore);
  EXPECT_TRUE(absl::IsInvalidArgument(report.status())) << report.status();
  const ErrorDetails details = DecodeErrorDetails(report.status());
  EXPECT_EQ(details.reason, "INVALID_FIELD");
  ASSERT_EQ(details.field_violations.size(), 1);
  EXPECT_EQ(details.field_violations[0].field, "options.sampling.top_p");
  EXPECT_EQ(server.attempts(), 1);
}

TEST(ClientTest, HandsOutTheDetailsOfTheLastRefusal) {
  ScriptedServer server({.refusals = 3});
  const auto report = ClientOf(server)->Generate(Prompt("hello"), Ignore);
  const ErrorDetails details = DecodeErrorDetails(report.status());
  EXPECT_EQ(details.reason, "QUEUE_FULL");
  EXPECT_THAT(details.retry_delay, Optional(absl::Milliseconds(250)));
}

TEST(ClientTest, CallsAStreamWithoutAReportAnError) {
  ScriptedServer server({.reports = false});
  const auto report = ClientOf(server)->Generate(Prompt("hello"), Ignore);
  EXPECT_TRUE(absl::IsInternal(report.status())) << report.status();
}

TEST(ClientTest, NeverHandsOutTextThatIsNotUtf8) {
  ScriptedServer server({.pieces = {"fine", "\xff\xfe"}});
  std::string text;
  const auto report = ClientOf(server)->Generate(
      Prompt("hello"), [&text](const v1::OutputDelta& output) {
        text += output.text();
        return true;
      });
  EXPECT_FALSE(report.ok());
  EXPECT_EQ(text, "fine");
}

TEST(ClientTest, SendsMetadata) {
  ScriptedServer server({});
  const auto answer = ClientOf(server)->GenerateText(
      Prompt("hello"), {.metadata = {{"x-request-id", "mine"}}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(server.last_header("x-request-id"),
              Optional(std::string("mine")));
}

TEST(ClientTest, RefusesMetadataThatCannotBeSent) {
  ScriptedServer server({});
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"", "value"},         {"Upper", "value"},    {"grpc-timeout", "1S"},
      {"data-bin", "value"}, {"key", "line\nfeed"}, {"key", "Grüße"}};
  for (const auto& entry : wrong) {
    const auto answer =
        ClientOf(server)->GenerateText(Prompt("hello"), {.metadata = {entry}});
    EXPECT_TRUE(absl::IsInvalidArgument(answer.status()))
        << entry.first << ": " << entry.second;
  }
  EXPECT_EQ(server.attempts(), 0);
}

TEST(ClientTest, TokenizesAndBack) {
  ScriptedServer server({});
  const auto client = ClientOf(server);
  v1::TokenizeRequest request;
  request.set_text("AB");
  const auto tokens = client->Tokenize(request);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(tokens->token_ids(), ElementsAre(65, 66));
  const auto text = client->Detokenize("", {65, 66});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "AB");
}

TEST(ClientTest, ListsTheModelsOfAllPages) {
  ScriptedServer server({});
  const auto models = ClientOf(server)->ListModels();
  ASSERT_TRUE(models.ok()) << models.status();
  ASSERT_EQ(models->size(), 2);
  EXPECT_EQ(models->at(0).name(), "models/a");
  EXPECT_EQ(models->at(1).name(), "models/b");
}

TEST(ClientTest, GetsOneModel) {
  ScriptedServer server({});
  const auto client = ClientOf(server);
  const auto model = client->GetModel("models/a");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name(), "models/a");
  EXPECT_TRUE(absl::IsNotFound(client->GetModel("models/c").status()));
}

TEST(ClientTest, ChecksHealth) {
  ScriptedServer server({.serves = false});
  const auto client = ClientOf(server);
  constexpr char kService[] = "sparseserve.v1.InferenceService";
  EXPECT_EQ(client->CheckHealth("").value(), Health::kServing);
  EXPECT_EQ(client->CheckHealth(kService).value(), Health::kNotServing);
  EXPECT_EQ(client->CheckHealth("nobody").value(), Health::kServiceUnknown);
}

TEST(ClientTest, WatchesHealth) {
  ScriptedServer server({.serves = false});
  std::vector<Health> seen;
  const absl::Status status = ClientOf(server)->WatchHealth(
      "sparseserve.v1.InferenceService", [&](Health health) {
        seen.push_back(health);
        server.SetServing(true);
        return seen.size() < 2;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(seen, ElementsAre(Health::kNotServing, Health::kServing));
}

TEST(ClientTest, StopsWatchingHealthOnRequest) {
  ScriptedServer server({});
  std::stop_source source;
  const absl::Status status =
      ClientOf(server)->WatchHealth("",
                                    [&source](Health) {
                                      source.request_stop();
                                      return true;
                                    },
                                    {.stop = source.get_token()});
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST(ClientTest, LeavesServersThatDoNotServe) {
  ScriptedServer server({.serves = false});
  const auto answer = ClientOf(server)->GenerateText(Prompt("hello"));
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
  EXPECT_EQ(server.attempts(), 0);
}

TEST(ClientTest, UsesServersWithoutAHealthService) {
  ScriptedServer server({.has_health = false});
  const auto client = ClientOf(server);
  const auto answer = client->GenerateText(Prompt("hello"));
  EXPECT_TRUE(answer.ok()) << answer.status();
  EXPECT_TRUE(absl::IsUnimplemented(client->CheckHealth("").status()));
}

TEST(ClientTest, WaitsForAServerThatDoesNotServeYet) {
  ScriptedServer server({.serves = false});
  const auto client = ClientOf(server);
  std::thread opener;
  const absl::Status watched = client->WatchHealth(
      "sparseserve.v1.InferenceService", [&](Health health) {
        if (health == Health::kServing) return false;
        opener = std::thread([&server] { server.SetServing(true); });
        return true;
      });
  const auto answer =
      client->GenerateText(Prompt("hello"), {.wait_for_ready = true});
  opener.join();
  EXPECT_TRUE(watched.ok()) << watched;
  EXPECT_TRUE(answer.ok()) << answer.status();
}

TEST(ClientTest, SaysThatNoServerIsThere) {
  const auto client =
      Client::Connect({.server = "unix:/nonexistent/sparseserve"});
  ASSERT_TRUE(client.ok()) << client.status();
  const auto answer = (*client)->GenerateText(Prompt("hello"));
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
  EXPECT_TRUE(DecodeErrorDetails(answer.status()).reason.empty());
}

TEST(ClientTest, RefusesAServiceConfigThatGrpcDoesNotTake) {
  const auto client = Client::Connect(
      {.server = "localhost:1",
       .service_config_json = R"({"methodConfig": [{"timeout": "soon"}]})"});
  EXPECT_TRUE(absl::IsInvalidArgument(client.status())) << client.status();
  EXPECT_THAT(client.status().message(), HasSubstr("timeout"));
}

TEST(ClientTest, RefusesToConnectToNothing) {
  const auto client = Client::Connect({});
  EXPECT_TRUE(absl::IsInvalidArgument(client.status()));
  EXPECT_THAT(client.status().message(), HasSubstr("server"));
}

}  // namespace
}  // namespace sparseserve
