// The command against a server that follows a script.

#include <csignal>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/load/load_report.pb.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/json_util.h"
#include "gtest/gtest.h"
#include "tests/client/load/scripted_metrics.h"
#include "tests/client/scripted_server.h"
#include "tests/client/tool/tool_process.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

std::string At(const ScriptedServer& server) {
  return "--server=" + server.address();
}

std::string TempFile(const std::string& name, const std::string& content) {
  const std::string path = ::testing::TempDir() + "load_command_test_" + name;
  std::ofstream(path) << content;
  return path;
}

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

client_load::LoadReport ParseReport(const std::string& json) {
  client_load::LoadReport report;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, &report).ok())
      << json;
  return report;
}

TEST(LoadCommandTest, PrintsATableAndWritesJsonAndCsv) {
  const ScriptedServer server({});
  const std::string trace = TempFile(
      "trace.csv", "arrival_s,prompt_tokens,output_tokens\n0,9,3\n0.1,5,3\n");
  const std::string json = TempFile("out.json", "");
  const std::string csv = TempFile("out.csv", "");
  const auto result =
      RunTool({"load", At(server), "--trace=" + trace, "--arrival_scale=0.5",
               "--class=chat:ttft=1h", "--json=" + json, "--csv=" + csv});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("open loop, seed 1: 2 requests"));
  EXPECT_THAT(result.out, HasSubstr("chat "));
  EXPECT_THAT(result.out, HasSubstr("100.0 %"));
  EXPECT_THAT(result.out, HasSubstr("give --metrics"));
  const auto report = ParseReport(ReadText(json));
  EXPECT_EQ(report.all().finished(), 2);
  EXPECT_EQ(report.all().output_tokens(), 6);
  EXPECT_EQ(report.all().attainment(), 1);
  EXPECT_EQ(report.classes(0).name(), "chat");
  EXPECT_GE(report.elapsed_s(), 0.05);
  const std::string lines = ReadText(csv);
  EXPECT_THAT(lines, HasSubstr("\n0,chat,0.000000,"));
  EXPECT_THAT(lines, HasSubstr("\n1,chat,0.050000,"));
  EXPECT_THAT(lines, HasSubstr(",5,3,finished,,met,"));
}

TEST(LoadCommandTest, JsonOnStandardOutputIsAlone) {
  const ScriptedServer server({.refusals = 1});
  const std::string csv = TempFile("refused.csv", "");
  const auto result =
      RunTool({"load", At(server), "--concurrency=1", "--requests=3",
               "--json=-", "--seed=5", "--csv=" + csv});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  const auto report = ParseReport(result.out);
  EXPECT_EQ(report.loop(), "closed");
  EXPECT_EQ(report.seed(), 5);
  EXPECT_EQ(report.all().refused(), 1);
  EXPECT_EQ(report.all().reasons(0).reason(), "QUEUE_FULL");
  const std::string lines = ReadText(csv);
  EXPECT_THAT(lines, HasSubstr(",refused,QUEUE_FULL,missed,,"));
  EXPECT_THAT(lines, HasSubstr(",0.250000\n"));
  EXPECT_THAT(result.err, HasSubstr("closed loop, seed 5: 3 requests"));
}

TEST(LoadCommandTest, SendsItsHeadersAndEndsThoughItIsBehind) {
  const ScriptedServer server({});
  ToolProcess tool({.arguments = {"load", At(server), "--rate=100000",
                                  "--requests=10000000", "--prompt_tokens=2000",
                                  "--metadata=x-caller=me", "--json=-"}});
  // Due within 20 ms: no machine sends so many in twice that.
  while (server.attempts() < 2000) std::this_thread::yield();
  tool.Signal(SIGINT);
  const auto result = tool.Wait();
  EXPECT_EQ(result.exit_status, 130);
  const auto report = ParseReport(result.out);
  EXPECT_TRUE(report.interrupted());
  EXPECT_TRUE(report.generator_lagged());
  EXPECT_EQ(server.last_header("x-caller"), "me");
}

TEST(LoadCommandTest, InterruptPrintsWhatThereIs) {
  const ScriptedServer server({.hangs = true});
  ToolProcess tool({.arguments = {"load", At(server), "--rate=1000",
                                  "--requests=5", "--json=-"}});
  while (server.attempts() < 5) std::this_thread::yield();
  tool.Signal(SIGINT);
  const auto result = tool.Wait();
  EXPECT_EQ(result.exit_status, 130);
  const auto report = ParseReport(result.out);
  EXPECT_TRUE(report.interrupted());
  EXPECT_EQ(report.all().requests(), 5);
  EXPECT_EQ(report.all().interrupted(), 5);
  EXPECT_FALSE(report.all().has_attainment());
}

TEST(LoadCommandTest, FailsIfNothingFinishes) {
  const ScriptedServer server({.refusals = 9});
  const auto result =
      RunTool({"load", At(server), "--concurrency=1", "--requests=2"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.out, HasSubstr("QUEUE_FULL"));
  EXPECT_THAT(result.err, HasSubstr("no request finished"));
}

// Of a server that counted `count` of everything, all within 100 s to 200 s.
std::string ServerScrape(int count) {
  std::string text;
  for (const auto& [name, labels] :
       {std::tuple("sparseserve_time_to_first_token_seconds", ""),
        std::tuple("sparseserve_inter_token_latency_seconds", ""),
        std::tuple("sparseserve_request_duration_seconds",
                   "operation=\"stream_generate\",")}) {
    for (const char* le : {"50", "100"}) {
      absl::StrAppend(&text, name, "_bucket{", labels, "le=\"", le, "\"} 0\n");
    }
    for (const char* le : {"200", "+Inf"}) {
      absl::StrAppend(&text, name, "_bucket{", labels, "le=\"", le, "\"} ",
                      count, "\n");
    }
  }
  return ScriptedMetrics::Ok(text);
}

TEST(LoadCommandTest, FailsLoudlyIfTheServersHistogramsDisagree) {
  const ScriptedServer server({});
  const ScriptedMetrics metrics({ServerScrape(0), ServerScrape(4)});
  const auto result =
      RunTool({"load", At(server), "--concurrency=2", "--requests=4",
               "--metrics=" + metrics.address()});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("disagree"));
  EXPECT_THAT(result.out,
              HasSubstr("DISAGREES: sparseserve_time_to_first_token_seconds "
                        "p99: client "));
  EXPECT_THAT(result.out, HasSubstr("server (100, 200] s"));
}

TEST(LoadCommandTest, FailsIfTheServerHasNoMetricsToCompare) {
  const ScriptedServer server({});
  const ScriptedMetrics empty(
      {ScriptedMetrics::Ok(""), ScriptedMetrics::Ok("")});
  const auto result = RunTool({"load", At(server), "--concurrency=1",
                               "--requests=1", "--metrics=" + empty.address()});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.out,
              HasSubstr("NOT COMPARED: the scrape has no histogram"));
  const auto nobody = RunTool({"load", At(server), "--concurrency=1",
                               "--requests=1", "--metrics=127.0.0.1:1"});
  EXPECT_EQ(nobody.exit_status, 1);
  EXPECT_THAT(nobody.err, HasSubstr("no metrics at 127.0.0.1:1"));
}

TEST(LoadCommandTest, WrongUsageNamesTheFlagOrTheLine) {
  struct Case {
    std::vector<std::string> flags;
    std::string error;
  };
  const std::string trace = TempFile(
      "bad.csv", "arrival_s,prompt_tokens,output_tokens\n0,9,3\n1,nine,3\n");
  const std::string long_trace = TempFile(
      "long.csv", "arrival_s,prompt_tokens,output_tokens\n0,9,3\n1,9,3\n");
  for (const Case& c : {
           Case{{}, "give --rate, --concurrency or --trace"},
           Case{{"--rate=1"}, "give --duration or --requests"},
           Case{{"--rate=1", "--concurrency=1"}, "give one"},
           Case{{"--rate=fast", "--requests=1"}, "--rate=fast: \"fast\""},
           Case{{"--concurrency=1@x", "--requests=1"}, "--concurrency=1@x"},
           Case{{"--concurrency=1@0s,1e9@1s", "--requests=1"},
                "--concurrency=1@0s,1e9@1s: expected at most 100000"},
           Case{{"--rate=1", "--requests=0"}, "--requests=0"},
           Case{{"--rate=1", "--duration=-1s"}, "--duration=-1s"},
           Case{{"--trace=" + trace}, "bad.csv:3: prompt_tokens \"nine\""},
           Case{{"--trace=/nonexistent.csv"}, "/nonexistent.csv"},
           Case{{"--rate=1", "--requests=1", "--arrival_scale=2"},
                "--arrival_scale=2: no --trace says when"},
           Case{{"--trace=" + trace, "--arrival_scale=0"}, "--arrival_scale=0"},
           Case{{"--rate=1", "--requests=1", "--class=a:x=1"}, "\"x=1\""},
           Case{{"--rate=1", "--requests=1", "--class=a", "--class=a"},
                "one of this name already"},
           Case{{"--rate=1", "--requests=1", "--prompt_tokens=0"},
                "--prompt_tokens=0"},
           Case{{"--rate=1", "--requests=1", "--output_tokens=9..1"},
                "--output_tokens=9..1"},
           Case{{"--rate=1", "--requests=1", "--prefix_tokens=-1"},
                "--prefix_tokens=-1"},
           Case{{"--rate=1", "--requests=1", "--prefixes=0"}, "--prefixes=0"},
           Case{{"--rate=1", "--requests=1", "--cancel_share=1.5"},
                "--cancel_share=1.5"},
           Case{{"--rate=1", "--requests=1", "--metadata=x"}, "--metadata=x"},
           Case{{"--rate=1", "--requests=1", "--metadata=X=1"},
                "metadata key \"X\""},
           Case{{"--rate=1", "--requests=1", "--drain_timeout=-1s"},
                "--drain_timeout=-1s"},
           Case{{"--trace=" + long_trace, "--arrival_scale=1e9"},
                "--arrival_scale=1e+09: the trace would take more than 744h"},
           Case{{"--rate=1", "--requests=1", "--text=/nonexistent"},
                "/nonexistent"},
           Case{{"--rate=1", "--requests=1", "--csv=/nonexistent/x"},
                "--csv=/nonexistent/x"},
           Case{{"--rate=1", "--requests=1", "--json=/nonexistent/x"},
                "--json=/nonexistent/x"},
           Case{{"--rate=1", "--requests=1", "stray"}, "argument stray"},
       }) {
    std::vector<std::string> arguments = {"load"};
    arguments.insert(arguments.end(), c.flags.begin(), c.flags.end());
    const auto result = RunTool(arguments);
    EXPECT_EQ(result.exit_status, 2) << c.error;
    EXPECT_THAT(result.err, HasSubstr(c.error));
  }
}

}  // namespace
}  // namespace sparseserve
