#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/client_call.h"
#include "client/load/histogram_comparison.h"
#include "client/load/load_driver.h"
#include "client/load/load_progress.h"
#include "client/load/load_report_builder.h"
#include "client/load/load_report_text.h"
#include "client/load/metrics_scrape.h"
#include "client/tool/attention_flag.h"
#include "client/tool/command.h"
#include "client/tool/load_flags.h"

namespace sparseserve {
namespace {

constexpr absl::Duration kScrapeTimeout = absl::Seconds(10);
constexpr absl::Duration kScreenInterval = absl::Milliseconds(500);
constexpr absl::Duration kLogInterval = absl::Seconds(10);

// One attempt a request: what a server refuses is what is to be measured.
constexpr char kNoRetries[] =
    R"({"loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {
          "serviceName": "sparseserve.v1.InferenceService"}})";

class LoadCommand : public Command {
 public:
  Help help() const override {
    return {.name = "load",
            .summary = "send many requests and measure how they are served",
            .arguments = "",
            .description =
                "Sends requests at times that do not depend on the answers "
                "(--rate, --trace), or\na number at once (--concurrency), and "
                "prints latencies, how many requests met\ntheir class's "
                "targets, and goodput. Latencies begin when a request was to\n"
                "be sent. Refused requests are not tried again. With --metrics "
                "it compares its\nlatencies with the server's histograms and "
                "fails if they disagree. Ctrl-C ends a\nrun early. A RAMP is "
                "a number, or VALUE@TIME,... with straight lines between.",
            .example =
                "sparseserve load --rate=2 --duration=60s "
                "--class=chat:ttft=500ms,tpot=60ms\n"
                "  sparseserve load --concurrency=8 --requests=200 \\\n"
                "      --prompt_tokens=100..2000 --text=book.txt\n"
                "  sparseserve load --trace=trace.csv --arrival_scale=4 \\\n"
                "      --metrics=localhost:9090 --json=run.json\n"
                "  sparseserve load --rate=1@0s,8@120s --duration=120s \\\n"
                "      --prefix_tokens=2048 --prefixes=4 \\\n"
                "      --class=interactive:share=0.7,ttft=400ms \\\n"
                "      --class=batch:share=0.3,output_tokens=200"};
  }

  std::vector<Flag> flags() override {
    std::vector<Flag> flags = load_.flags();
    const std::vector<Flag> more = {
        {"model", "NAME", "models/NAME; needed if the server has several",
         &model_},
        {"attention", "PATTERN", "a pattern for all, as generate takes it",
         &attention_},
        {"metadata", "KEY=VALUE", "a header of each request; may be repeated",
         &metadata_},
        {"drain_timeout", "TIME",
         "once all are sent, wait so long for what still runs;\ndefault: to "
         "the end",
         &drain_timeout_},
        {"metrics", "HOST:PORT",
         "read the server's metrics before and after, and\ncompare", &metrics_},
        {"json", "FILE", "write the result as JSON; - is standard output",
         &json_file_},
        {"csv", "FILE", "write a line of CSV for each request", &csv_file_},
        {"quiet", "", "show no progress", &quiet_},
    };
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }

  absl::Status Prepare(const std::vector<std::string>& arguments) override {
    if (!arguments.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unexpected argument ", arguments[0]));
    }
    const absl::Status read = load_.Read();
    if (!read.ok()) return read;
    request_.set_model(model_);
    request_.mutable_sampling()->set_temperature(0);
    request_.mutable_stop()->set_ignore_eos(true);
    if (!attention_.empty()) {
      auto choice = ParseAttention(attention_);
      if (!choice.ok()) return choice.status();
      *request_.mutable_attention() = *std::move(choice);
    }
    for (const std::string& header : metadata_) {
      const size_t equals = header.find('=');
      if (equals == header.npos) {
        return absl::InvalidArgumentError(
            absl::StrCat("flag --metadata=", header, ": expected KEY=VALUE"));
      }
      headers_.emplace_back(header.substr(0, equals),
                            header.substr(equals + 1));
    }
    const absl::Status valid = ValidateCallOptions({.metadata = headers_});
    if (!valid.ok()) return valid;
    if (drain_timeout_.value_or(absl::ZeroDuration()) < absl::ZeroDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "flag --drain_timeout=", absl::FormatDuration(*drain_timeout_),
          ": expected 0 or more"));
    }
    return OpenFiles();
  }

  std::string service_config_json() const override { return kNoRetries; }

  absl::StatusOr<ExitStatus> Run(Client& client, const CallOptions& given,
                                 Terminal& terminal) override {
    CallOptions call = given;
    call.metadata = headers_;
    auto prompts = MakePrompts(client, call);
    if (!prompts.ok()) return prompts.status();
    absl::StatusOr<std::string> before = std::string();
    if (!metrics_.empty()) {
      before = ScrapeMetrics(metrics_, kScrapeTimeout);
      if (!before.ok()) return before.status();
    }
    const RequestPlan plan = load_.Plan();
    LoadRecorder recorder(plan.classes());
    const LoadDriver::Result result =
        Drive(client, call, plan, *prompts, recorder, terminal);
    client_load::LoadReport report = BuildLoadReport(recorder, result.elapsed);
    report.set_model(model_);
    report.set_loop(load_.is_closed_loop() ? "closed" : "open");
    report.set_seed(static_cast<int64_t>(load_.seed()));
    report.set_interrupted(result.interrupted);
    if (!metrics_.empty()) {
      *report.mutable_server_comparison() =
          BuildServerComparison(Compare(recorder, *before));
    }
    return Print(report, terminal);
  }

 private:
  // Before the run: what cannot be written would be lost after it.
  absl::Status OpenFiles() {
    absl::Status opened = Open("json", json_file_, json_out_);
    if (!opened.ok()) return opened;
    opened = Open("csv", csv_file_, csv_);
    if (opened.ok() && csv_.is_open()) csv_ << RequestCsvHeader();
    return opened;
  }

  static absl::Status Open(absl::string_view flag, const std::string& path,
                           std::ofstream& file) {
    if (path.empty() || path == "-") return absl::OkStatus();
    file.open(path);
    if (file) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot write --", flag, "=", path, ": ", strerror(errno)));
  }

  // Of a file that may not be there.
  static absl::Status Close(absl::string_view flag, std::ofstream& file) {
    if (!file.is_open()) return absl::OkStatus();
    file.close();
    if (file) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("cannot write all of --", flag));
  }

  absl::StatusOr<PromptSource> MakePrompts(Client& client,
                                           const CallOptions& call) {
    const auto tokenize =
        [&](absl::string_view text) -> absl::StatusOr<std::vector<int32_t>> {
      v1::TokenizeRequest request;
      request.set_model(model_);
      request.set_text(std::string(text));
      auto response = client.Tokenize(request, call);
      if (!response.ok()) return response.status();
      return std::vector<int32_t>(response->token_ids().begin(),
                                  response->token_ids().end());
    };
    return PromptSource::Create(load_.text(), tokenize, load_.Prefixes());
  }

  LoadDriver::Result Drive(Client& client, const CallOptions& call,
                           const RequestPlan& plan, const PromptSource& prompts,
                           LoadRecorder& recorder, Terminal& terminal) {
    const bool screen = terminal.error_is_screen();
    LoadDriver::Options options = {
        .request = request_,
        .call = call,
        .progress_interval = screen ? kScreenInterval : kLogInterval};
    options.drain_timeout = drain_timeout_.value_or(absl::InfiniteDuration());
    ProgressText text(load_.duration(), load_.requests());
    const auto on_progress = [&](const LoadProgress& progress) {
      if (quiet_) return;
      terminal.ShowProgress(screen ? text.Lines(progress)
                                   : text.Line(progress));
    };
    const auto on_ended = [&](const PlannedRequest& planned,
                              const RequestOutcome& outcome, Verdict verdict) {
      if (!csv_.is_open()) return;
      csv_ << RequestCsvLine(plan.classes()[planned.load_class], planned,
                             outcome, verdict);
    };
    LoadRun run(load_.Schedule(), plan);
    LoadDriver driver(client, plan, prompts, std::move(options));
    const LoadDriver::Result result =
        driver.Run(run, recorder, on_progress, on_ended);
    terminal.EndProgress();
    return result;
  }

  absl::StatusOr<std::vector<ComparedQuantile>> Compare(
      const LoadRecorder& recorder, const std::string& before) {
    auto after = ScrapeMetrics(metrics_, kScrapeTimeout);
    if (!after.ok()) return after.status();
    return CompareWithServer(recorder, before, *after);
  }

  absl::StatusOr<ExitStatus> Print(const client_load::LoadReport& report,
                                   Terminal& terminal) {
    if (json_file_ == "-") {
      terminal.Write(LoadReportJson(report));
      terminal.WriteError(LoadReportText(report));
    } else {
      terminal.Write(LoadReportText(report));
    }
    if (json_out_.is_open()) json_out_ << LoadReportJson(report);
    absl::Status written = Close("json", json_out_);
    if (written.ok()) written = Close("csv", csv_);
    if (!written.ok()) return written;
    const bool wrong =
        report.has_server_comparison() && !report.server_comparison().agrees();
    if (wrong) {
      terminal.WriteError(
          "sparseserve: the server's histograms and what was measured here "
          "disagree; see above\n");
    }
    const bool nothing_served = report.all().finished() == 0;
    if (nothing_served) {
      terminal.WriteError("sparseserve: no request finished\n");
    }
    return wrong || nothing_served ? kFailure : kSuccess;
  }

  LoadFlags load_;
  std::string model_;
  std::string attention_;
  std::vector<std::string> metadata_;
  std::optional<absl::Duration> drain_timeout_;
  std::string metrics_;
  std::string json_file_;
  std::string csv_file_;
  bool quiet_ = false;

  v1::GenerateOptions request_;
  std::vector<std::pair<std::string, std::string>> headers_;
  std::ofstream json_out_;
  std::ofstream csv_;
};

}  // namespace

std::unique_ptr<Command> MakeLoadCommand() {
  return std::make_unique<LoadCommand>();
}

}  // namespace sparseserve
