#include <csignal>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "client/tool/printable_text.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/json_util.h"
#include "gtest/gtest.h"
#include "tests/client/scripted_server.h"
#include "tests/client/tool/tool_process.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string At(const ScriptedServer& server) {
  return "--server=" + server.address();
}

TEST(GenerateCommandTest, PrintsTextAndReportApart) {
  ScriptedServer server({});
  const auto result = RunTool({"generate", At(server), "hello"});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.out, "Grüße, Welt 🌍\n");
  EXPECT_THAT(result.err, HasSubstr("the model ended its answer"));
  EXPECT_THAT(result.err, HasSubstr("3 generated"));
}

TEST(GenerateCommandTest, PrintsNoReportIfQuiet) {
  ScriptedServer server({});
  const auto result = RunTool({"generate", At(server), "--quiet", "hello"});
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_THAT(result.err, IsEmpty());
}

TEST(GenerateCommandTest, PrintsEachPieceAtOnceAndCancelsAtAnInterrupt) {
  ScriptedServer server({.pieces = {"so far"}, .hangs = true});
  ToolProcess tool({.arguments = {"generate", At(server), "hello"}});
  ASSERT_TRUE(tool.WaitForOutput("so far"));
  tool.Signal(SIGINT);
  const auto result = tool.Wait();
  EXPECT_EQ(result.exit_status, 130);
  EXPECT_THAT(result.err, IsEmpty());
  server.WaitForCancellation();
}

TEST(GenerateCommandTest, CancelsQuietlyIfItsOutputIsClosed) {
  ScriptedServer server({.pieces = {"unread"}, .hangs = true});
  ToolProcess tool(
      {.arguments = {"generate", At(server), "hello"}, .output_closed = true});
  const auto result = tool.Wait();
  EXPECT_EQ(result.exit_status, 141);
  EXPECT_THAT(result.err, IsEmpty());
  server.WaitForCancellation();
}

TEST(GenerateCommandTest, PrintsALineOfJsonForEachMessage) {
  ScriptedServer server({.pieces = {"a\n", "ß"}});
  const auto result = RunTool({"generate", At(server), "--json", "hello"});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_THAT(result.err, IsEmpty());
  std::vector<std::string> lines = absl::StrSplit(result.out, '\n');
  ASSERT_EQ(lines.size(), 4);
  EXPECT_THAT(lines.back(), IsEmpty());
  lines.pop_back();
  std::vector<v1::StreamGenerateResponse> messages(lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_TRUE(
        google::protobuf::util::JsonStringToMessage(lines[i], &messages[i])
            .ok())
        << lines[i];
  }
  EXPECT_EQ(messages[0].output().text(), "a\n");
  EXPECT_EQ(messages[1].output().text(), "ß");
  EXPECT_EQ(messages[2].report().request_id(), "request-7");
}

TEST(GenerateCommandTest, SendsWhatTheFlagsSay) {
  ScriptedServer server({});
  const auto result = RunTool({"generate",
                               At(server),
                               "--chat",
                               "--system",
                               "Be brief.",
                               "--max_tokens=5",
                               "--temperature=0.5",
                               "--top-k=7",
                               "--top_p=0.9",
                               "--seed=-3",
                               "--stop=.",
                               "--stop=!",
                               "--target_ttft=150ms",
                               "--target_tpot=1.5s",
                               "--on_miss=degrade",
                               "--plan=dense",
                               "--max_divergence=0",
                               "--request_id=mine",
                               "--logprobs=2",
                               "hello"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  const v1::GenerateOptions options = server.last_options();
  ASSERT_EQ(options.chat().messages_size(), 2);
  EXPECT_EQ(options.chat().messages(0).role(), "system");
  EXPECT_EQ(options.chat().messages(0).content(), "Be brief.");
  EXPECT_EQ(options.chat().messages(1).role(), "user");
  EXPECT_EQ(options.chat().messages(1).content(), "hello");
  EXPECT_EQ(options.stop().max_output_tokens(), 5);
  EXPECT_THAT(options.stop().strings(), ElementsAre(".", "!"));
  EXPECT_EQ(options.sampling().temperature(), 0.5);
  EXPECT_EQ(options.sampling().top_k(), 7);
  EXPECT_EQ(options.sampling().top_p(), 0.9);
  EXPECT_EQ(options.sampling().seed(), -3);
  EXPECT_FALSE(options.sampling().has_min_p());
  const v1::LatencyTarget& target = options.latency_target();
  EXPECT_EQ(target.time_to_first_token().nanos(), 150'000'000);
  EXPECT_EQ(target.time_per_output_token().seconds(), 1);
  EXPECT_EQ(target.time_per_output_token().nanos(), 500'000'000);
  EXPECT_FALSE(target.has_total());
  EXPECT_EQ(target.on_miss(), v1::LatencyTarget::DEGRADE);
  EXPECT_EQ(options.attention().plan(), "dense");
  EXPECT_TRUE(options.has_max_divergence());
  EXPECT_EQ(options.max_divergence(), 0);
  EXPECT_EQ(options.request_id(), "mine");
  EXPECT_EQ(options.logprobs().top_k(), 2);
}

TEST(GenerateCommandTest, SendsThePatternThatTheFlagNames) {
  ScriptedServer server({});
  const auto result =
      RunTool({"generate", At(server),
               "--attention=xattention:stride=16,threshold=0.5", "hello"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  const v1::GenerateOptions options = server.last_options();
  const v1::XAttentionPattern& pattern =
      options.attention().pattern().xattention();
  EXPECT_EQ(pattern.stride(), 16);
  EXPECT_EQ(pattern.threshold(), 0.5f);
  EXPECT_FALSE(pattern.has_dense_layers());
}

TEST(GenerateCommandTest, RefusesAttentionThatNobodyHasBeforeItCalls) {
  ScriptedServer server({});
  const auto unknown =
      RunTool({"generate", At(server), "--attention=spiral:turns=2", "hello"});
  EXPECT_EQ(unknown.exit_status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("no pattern \"spiral\""));
  const auto twice = RunTool(
      {"generate", At(server), "--attention=dense", "--plan=fast", "hello"});
  EXPECT_EQ(twice.exit_status, 2);
  EXPECT_THAT(twice.err, HasSubstr("choose twice"));
  EXPECT_EQ(server.attempts(), 0);
}

TEST(GenerateCommandTest, HelpShowsPatternsWithTheirParameters) {
  const auto result = RunTool({"generate", "--help"});
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_THAT(result.out, HasSubstr("xattention:stride=N,threshold=X"));
  EXPECT_THAT(result.out, HasSubstr("sliding_window:window_tokens=N"));
  EXPECT_THAT(result.out, HasSubstr("--attention=xattention:stride=8"));
}

TEST(GenerateCommandTest, LeavesToTheServerWhatNoFlagSays) {
  ScriptedServer server({});
  const auto result = RunTool({"generate", At(server), "hello"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  const v1::GenerateOptions options = server.last_options();
  EXPECT_EQ(options.text(), "hello");
  EXPECT_FALSE(options.sampling().has_temperature());
  EXPECT_FALSE(options.stop().has_max_output_tokens());
  EXPECT_FALSE(options.has_logprobs());
  EXPECT_FALSE(options.has_latency_target());
  EXPECT_FALSE(options.has_attention());
  EXPECT_FALSE(options.has_max_divergence());
}

TEST(GenerateCommandTest, ReadsThePromptFromStandardInput) {
  ScriptedServer server({});
  const auto result = RunTool({"generate", At(server)}, "from\nstdin");
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(server.last_options().text(), "from\nstdin");
}

TEST(GenerateCommandTest, RefusesPromptsBeforeItCalls) {
  ScriptedServer server({});
  const auto twice =
      RunTool({"generate", At(server), "--file=/dev/null", "hello"});
  EXPECT_EQ(twice.exit_status, 2);
  EXPECT_THAT(twice.err, HasSubstr("given twice"));
  const auto split = RunTool({"generate", At(server), "two", "words"});
  EXPECT_EQ(split.exit_status, 2);
  EXPECT_THAT(split.err, HasSubstr("quotes"));
  const auto missing =
      RunTool({"generate", At(server), "--file=/nonexistent/prompt"});
  EXPECT_EQ(missing.exit_status, 2);
  EXPECT_THAT(missing.err, HasSubstr("/nonexistent/prompt"));
  const auto binary = RunTool({"generate", At(server)}, "\xc3(");
  EXPECT_EQ(binary.exit_status, 2);
  EXPECT_THAT(binary.err, HasSubstr("UTF-8"));
  EXPECT_EQ(server.attempts(), 0);
}

TEST(GenerateCommandTest, TellsWhichFieldIsWrong) {
  ScriptedServer server({.pieces = {}, .status = BadTopP()});
  const auto result = RunTool({"generate", At(server), "--top_p=1.5", "hello"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_THAT(result.err,
              HasSubstr("options.sampling.top_p: 1.5 is not in (0, 1]"));
}

TEST(GenerateCommandTest, PrintsNothingThatSteersTheTerminalOrIsNotUtf8) {
  ScriptedServer server(
      {.pieces = {"fine"},
       .status = grpc::Status(grpc::StatusCode::INTERNAL,
                              "bad \xff\x1b[2J\xc2\x9b byte")});
  const auto result = RunTool({"generate", At(server), "hello"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_EQ(result.out, "fine\n");
  EXPECT_TRUE(IsValidUtf8(result.err)) << result.err;
  EXPECT_THAT(result.err, Not(HasSubstr("\x1b")));
  EXPECT_THAT(result.err, HasSubstr("byte"));
}

TEST(GenerateCommandTest, PrintsNoTextThatIsNotUtf8) {
  ScriptedServer server({.pieces = {"fine", "\xe2\x82"}});
  const auto result = RunTool({"generate", At(server), "hello"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_EQ(result.out, "fine\n");
  EXPECT_THAT(result.err, HasSubstr("malformed"));
}

TEST(GenerateCommandTest, GivesUpAfterTheTimeout) {
  ScriptedServer server({.pieces = {}, .hangs = true});
  const auto result =
      RunTool({"generate", At(server), "--timeout=60ms", "hello"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("--timeout=60ms"));
}

TEST(GenerateCommandTest, SaysHowToStartAServer) {
  const auto result =
      RunTool({"generate", "--server=unix:/nonexistent/socket", "hello"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("unix:/nonexistent/socket"));
  EXPECT_THAT(result.err, HasSubstr("sparseserve-server --model=FILE"));
}

}  // namespace
}  // namespace sparseserve
