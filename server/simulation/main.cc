// Runs a trace through the server's scheduling in virtual time.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/rpc/server_settings.h"
#include "server/rpc/target_conversion.h"
#include "server/simulation/simulation.h"
#include "server/simulation/step_costs.h"

ABSL_FLAG(std::string, trace, "",
          "CSV with arrival_s,prompt_tokens,output_tokens. Required.");
ABSL_FLAG(double, arrival_scale, 1,
          "Multiply the trace's times: 2 takes twice as long.");
ABSL_FLAG(int, repeat, 1, "Run the trace so many times, one after another.");
ABSL_FLAG(std::string, classes, "all",
          "NAME:KEY=VALUE,...;NAME:... with the keys share, ttft, tpot, total, "
          "deadline, on_miss, priority, prefix_tokens.");
ABSL_FLAG(int, replicas, 1, "Servers, 1 to 64.");
ABSL_FLAG(std::string, picker, "least_loaded",
          "Who chooses a request's server: round_robin, least_loaded (fewest "
          "requests waiting and running), or orca (gRPC's weighted round robin "
          "over load reports).");
ABSL_FLAG(absl::Duration, report_interval, absl::Seconds(10),
          "Time between load reports, for --picker=orca.");
ABSL_FLAG(std::string, costs,
          "constant=3.5ms,decode_row=1.1ms,prompt_row=0.5ms,"
          "decode_block=0.17ms,prompt_block=0.45ms",
          "What a step takes: each, each row of output and of prompts, each KV "
          "block that these visit. Default: about what the default model takes "
          "on 2 CPU cores with AMX.");
ABSL_FLAG(std::string, costs_from, "",
          "Take --costs from this scrape of a server's /metrics.");
ABSL_FLAG(double, step_noise, 0,
          "Standard deviation of a step's time over its mean, 0 to 1.");
ABSL_FLAG(std::string, config, "",
          "The servers' sparseserve.v1.ServerConfig in text format; flags win "
          "over it.");
ABSL_FLAG(std::optional<int>, max_step_tokens, std::nullopt,
          "As the server's flag; its default is that on a CPU.");
ABSL_FLAG(std::optional<int>, max_running_sequences, std::nullopt,
          "As the server's flag.");
ABSL_FLAG(std::optional<int>, max_queued_requests, std::nullopt,
          "As the server's flag.");
ABSL_FLAG(int, kv_pages, 728,
          "Pages of 64 tokens that a server has; it logs the number.");
ABSL_FLAG(int, context_tokens, 8192, "The model's context.");
ABSL_FLAG(uint64_t, seed, 1, "The same seed gives the same result.");
ABSL_FLAG(std::string, json, "",
          "Also write the result to this file as JSON; - is standard output, "
          "instead of text.");

namespace sparseserve {
namespace {

// What the engine takes of itself on a CPU, where neither flag nor config says.
constexpr int kCpuStepTokens = 512;

constexpr char kUsage[] =
    R"(Runs a trace of requests through the server's own queue and scheduler in
virtual time: hours in seconds. Prints attainment of targets, goodput, waste.

  sparseserve-simulate --trace=trace.csv
  sparseserve-simulate --trace=trace.csv --arrival_scale=4 \
      --classes='interactive:share=0.7,ttft=2s,tpot=200ms;batch:priority=-1'
  curl -s localhost:9090/metrics > scrape.txt
  sparseserve-simulate --trace=trace.csv --costs_from=scrape.txt \
      --config=server.textproto --json=result.json
  sparseserve-simulate --trace=trace.csv --repeat=6 --arrival_scale=0.1 \
      --replicas=16 --picker=orca
)";

constexpr auto kProgressInterval = std::chrono::seconds(1);

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(StrCat("cannot read ", path));
  }
  return text.str();
}

absl::StatusOr<std::vector<TracedRequest>> ReadRequests() {
  const std::string path = absl::GetFlag(FLAGS_trace);
  const double scale = absl::GetFlag(FLAGS_arrival_scale);
  const int repeat = absl::GetFlag(FLAGS_repeat);
  if (path.empty()) return absl::InvalidArgumentError("--trace is required");
  if (!(scale > 0 && scale <= 1e6)) {
    return absl::InvalidArgumentError(
        StrCat("--arrival_scale is ", scale, ", must be above 0, at most 1e6"));
  }
  if (repeat < 1 || repeat > 1000) {
    return absl::InvalidArgumentError(
        StrCat("--repeat is ", repeat, ", must be from 1 to 1000"));
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  ASSIGN_OR_RETURN(const std::vector<TracedRequest> trace,
                   ParseTrace(text, path));
  // As long after the last as requests are apart in the mean.
  const absl::Duration span = trace.back().arrival - trace.front().arrival;
  const absl::Duration period =
      span + span / std::max<int64_t>(trace.size() - 1, 1);
  std::vector<TracedRequest> requests;
  for (int i = 0; i < repeat; ++i) {
    for (TracedRequest request : trace) {
      request.arrival = (request.arrival + i * period) * scale;
      requests.push_back(request);
    }
  }
  return requests;
}

absl::StatusOr<StepCosts> ReadCosts() {
  const std::string path = absl::GetFlag(FLAGS_costs_from);
  if (path.empty()) return ParseStepCosts(absl::GetFlag(FLAGS_costs));
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ReadScrapedCosts(text);
}

absl::StatusOr<SimulationOptions> ReadOptions() {
  const std::string config = absl::GetFlag(FLAGS_config);
  std::string text;
  if (!config.empty()) {
    ASSIGN_OR_RETURN(text, ReadFile(config));
  }
  ASSIGN_OR_RETURN(
      ServerSettings settings,
      SettleSettings(
          text, config,
          {.max_step_tokens = absl::GetFlag(FLAGS_max_step_tokens),
           .max_running_sequences = absl::GetFlag(FLAGS_max_running_sequences),
           .max_queued_requests = absl::GetFlag(FLAGS_max_queued_requests)}));
  if (settings.max_step_tokens == 0) {
    settings.max_step_tokens = std::max(
        kCpuStepTokens, settings.max_running_sequences + kPageTokens - 1);
  }
  SimulationOptions options;
  ASSIGN_OR_RETURN(options.requests, ReadRequests());
  ASSIGN_OR_RETURN(options.classes, ParseClasses(absl::GetFlag(FLAGS_classes)));
  for (SimulatedClass& asked : options.classes) {
    asked.target = SettleTarget(asked.target, {}, settings.default_targets,
                                asked.priority);
  }
  ASSIGN_OR_RETURN(options.costs, ReadCosts());
  options.default_deadline = settings.default_deadline;
  options.replicas = absl::GetFlag(FLAGS_replicas);
  options.picker = absl::GetFlag(FLAGS_picker);
  options.orca.report_interval = absl::GetFlag(FLAGS_report_interval);
  options.scheduler =
      SchedulingOptions(settings, absl::GetFlag(FLAGS_context_tokens),
                        absl::GetFlag(FLAGS_kv_pages));
  options.queue = QueueOptions(settings);
  options.step_noise = absl::GetFlag(FLAGS_step_noise);
  options.seed = absl::GetFlag(FLAGS_seed);
  return options;
}

// A line a second on standard error, once it takes that long.
class ProgressLines {
 public:
  explicit ProgressLines(size_t requests) : requests_(requests) {}

  void operator()(const SimulationProgress& progress) {
    const auto now = std::chrono::steady_clock::now();
    if (now - shown_ < kProgressInterval) return;
    shown_ = now;
    std::fprintf(
        stderr, "simulated %s: %lld of %zu requests ended\n",
        absl::FormatDuration(absl::Trunc(progress.simulated, absl::Seconds(1)))
            .c_str(),
        static_cast<long long>(progress.ended), requests_);
  }

 private:
  const size_t requests_;
  std::chrono::steady_clock::time_point shown_ =
      std::chrono::steady_clock::now();
};

absl::Status Run() {
  ASSIGN_OR_RETURN(const SimulationOptions options, ReadOptions());
  const std::string json = absl::GetFlag(FLAGS_json);
  std::ofstream file;
  if (!json.empty() && json != "-") {
    file.open(json);
    if (!file) return absl::InvalidArgumentError(StrCat("cannot write ", json));
  }
  ASSIGN_OR_RETURN(const SimulationReport report,
                   Simulate(options, ProgressLines(options.requests.size())));
  const std::string text =
      json == "-" ? ReportJson(report) : ReportText(report);
  std::fputs(text.c_str(), stdout);
  if (file.is_open() && !(file << ReportJson(report)).flush()) {
    return absl::UnavailableError(StrCat("cannot write all of ", json));
  }
  return absl::OkStatus();
}

absl::FlagsUsageConfig UsageConfig() {
  absl::FlagsUsageConfig config;
  config.version_string = [] {
    return StrCat("sparseserve-simulate ", SPARSESERVE_VERSION, "\n");
  };
  // The path of the build is nobody's business.
  config.normalize_filename = [](absl::string_view file) {
    return std::string(file.substr(file.rfind('/') + 1));
  };
  config.contains_help_flags = [](absl::string_view file) {
    return file == "main.cc";
  };
  return config;
}

}  // namespace
}  // namespace sparseserve

// 2 means that the flags or a file cannot be used.
int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(sparseserve::kUsage);
  absl::SetFlagsUsageConfig(sparseserve::UsageConfig());
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  const absl::Status status =
      rest.size() > 1 ? absl::InvalidArgumentError(sparseserve::StrCat(
                            "unexpected argument ", rest[1], "; see --help"))
                      : sparseserve::Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "sparseserve-simulate: %s\n",
               std::string(status.message()).c_str());
  return 2;
}
