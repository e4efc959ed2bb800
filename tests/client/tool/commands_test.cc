// The commands other than generate, and what all have in common.

#include <csignal>
#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/util/json_util.h"
#include "gtest/gtest.h"
#include "tests/client/load/scripted_metrics.h"
#include "tests/client/scripted_server.h"
#include "tests/client/tool/sample_report.h"
#include "tests/client/tool/tool_process.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kInference[] = "sparseserve.v1.InferenceService";

std::string At(const ScriptedServer& server) {
  return "--server=" + server.address();
}

TEST(CommandsTest, ShowHelpWithAnExampleEach) {
  EXPECT_THAT(RunTool({"--help"}).out, HasSubstr("Examples:"));
  for (const std::string name :
       {"generate", "models", "tokenize", "explain", "health", "load", "top"}) {
    const auto result = RunTool({name, "--help"});
    EXPECT_EQ(result.exit_status, 0);
    EXPECT_THAT(result.out, HasSubstr("Example:\n  sparseserve " + name));
    EXPECT_THAT(result.out, HasSubstr("--server"));
    EXPECT_THAT(result.err, IsEmpty());
  }
}

TEST(CommandsTest, RefuseWrongUsage) {
  EXPECT_EQ(RunTool({}).exit_status, 2);
  const auto command = RunTool({"generat"});
  EXPECT_EQ(command.exit_status, 2);
  EXPECT_THAT(command.err, HasSubstr("no command generat"));
  const auto flag = RunTool({"health", "--colour"});
  EXPECT_EQ(flag.exit_status, 2);
  EXPECT_THAT(flag.err, HasSubstr("no flag --colour"));
  const auto value = RunTool({"generate", "--max_tokens=many", "hello"});
  EXPECT_EQ(value.exit_status, 2);
  EXPECT_THAT(value.err, HasSubstr("--max_tokens=many"));
  EXPECT_EQ(RunTool({"models", "a", "b"}).exit_status, 2);
  const auto query = RunTool({"explain", "--query=last", "hello"});
  EXPECT_EQ(query.exit_status, 2);
  EXPECT_THAT(query.err, HasSubstr("--query=last"));
  EXPECT_EQ(RunTool({"explain", "--json", "--html=page", "hello"}).exit_status,
            2);
  EXPECT_EQ(RunTool({"health", "a", "b"}).exit_status, 2);
}

TEST(CommandsTest, ModelsListsAllPages) {
  ScriptedServer server({});
  const auto result = RunTool({"models", At(server)});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("models/a\n"));
  EXPECT_THAT(result.out, HasSubstr("models/b\n"));
}

TEST(CommandsTest, ModelsShowsOneAsJson) {
  ScriptedServer server({});
  const auto result = RunTool({"models", At(server), "--json", "models/a"});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.out, "{\"name\":\"models/a\"}\n");
  EXPECT_EQ(RunTool({"models", At(server), "models/c"}).exit_status, 1);
}

TEST(CommandsTest, TokenizePrintsIdsAndTexts) {
  ScriptedServer server({});
  const auto result = RunTool({"tokenize", At(server)}, "A\n");
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.out, "     65  \"A\"\n     10  \"\\n\"\n");
}

TEST(CommandsTest, TokenizePrintsJson) {
  ScriptedServer server({});
  const auto result = RunTool({"tokenize", At(server), "--json", "AB"});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  v1::TokenizeResponse response;
  ASSERT_TRUE(
      google::protobuf::util::JsonStringToMessage(result.out, &response).ok());
  EXPECT_EQ(response.token_ids_size(), 2);
}

TEST(CommandsTest, HealthExitsWithZeroOnlyIfServing) {
  ScriptedServer server({.serves = false});
  const auto whole = RunTool({"health", At(server)});
  EXPECT_EQ(whole.exit_status, 0);
  EXPECT_EQ(whole.out, "SERVING\n");
  const auto inference = RunTool({"health", At(server), kInference});
  EXPECT_EQ(inference.exit_status, 1);
  EXPECT_EQ(inference.out, "NOT_SERVING\n");
  const auto unknown = RunTool({"health", At(server), "--quiet", "nobody"});
  EXPECT_EQ(unknown.exit_status, 1);
  EXPECT_THAT(unknown.out, IsEmpty());
  EXPECT_EQ(
      RunTool({"health", "--server=unix:/nonexistent/socket"}).exit_status, 1);
}

TEST(CommandsTest, HealthPrintsChangesUntilInterrupted) {
  ScriptedServer server({.serves = false});
  ToolProcess tool(
      {.arguments = {"health", At(server), "--watch", kInference}});
  ASSERT_TRUE(tool.WaitForOutput("NOT_SERVING\n"));
  server.SetServing(true);
  ASSERT_TRUE(tool.WaitForOutput("NOT_SERVING\nSERVING\n"));
  tool.Signal(SIGTERM);
  EXPECT_EQ(tool.Wait().exit_status, 128 + SIGTERM);
}

TEST(CommandsTest, TopPrintsOneScreen) {
  ScriptedMetrics metrics(
      {ScriptedMetrics::Ok(kSampleReport), ScriptedMetrics::Ok(kSampleReport)});
  const std::string at = "--metrics=" + metrics.address();
  const auto result = RunTool({"top", "--once", at});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("small  serving  up 2h1m5s\n"));
  EXPECT_THAT(result.out, HasSubstr("In the last minute"));
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
  const auto all = RunTool({"top", "--once", "--all", at});
  EXPECT_EQ(all.exit_status, 0) << all.err;
  EXPECT_THAT(all.out, HasSubstr("Since the server started"));
}

TEST(CommandsTest, TopSaysWhatIsWrong) {
  const auto nobody = RunTool({"top", "--once", "--metrics=127.0.0.1:1"});
  EXPECT_EQ(nobody.exit_status, 1);
  EXPECT_THAT(nobody.err, HasSubstr("no metrics at 127.0.0.1:1"));
  ScriptedMetrics older(
      {"HTTP/1.1 404 Not Found\r\n\r\n", ScriptedMetrics::Ok("# HELP")});
  const std::string at = "--metrics=" + older.address();
  EXPECT_THAT(RunTool({"top", "--once", at}).err, HasSubstr("404"));
  EXPECT_THAT(RunTool({"top", "--once", at}).err, HasSubstr("JSON"));
  const auto no_screen = RunTool({"top", at});
  EXPECT_EQ(no_screen.exit_status, 2);
  EXPECT_THAT(no_screen.err, HasSubstr("--once"));
  EXPECT_EQ(RunTool({"top", "--once", "now"}).exit_status, 2);
}

}  // namespace
}  // namespace sparseserve
