#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/tool/command.h"
#include "client/tool/json_line.h"
#include "client/tool/report_text.h"
#include "client/tool/run_flags.h"

namespace sparseserve {
namespace {

void SetDuration(const std::optional<absl::Duration>& from,
                 google::protobuf::Duration* (v1::LatencyTarget::*mutable_to)(),
                 v1::LatencyTarget& target) {
  if (!from.has_value()) return;
  google::protobuf::Duration* to = (target.*mutable_to)();
  absl::Duration rest;
  to->set_seconds(absl::IDivDuration(*from, absl::Seconds(1), &rest));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

class GenerateCommand : public Command {
 public:
  Help help() const override {
    return {.name = "generate",
            .summary = "stream the text that a model generates",
            .arguments = "[PROMPT]",
            .description =
                "Text goes to standard output as it arrives, a report of what "
                "was done to\nstandard error. Without PROMPT and --file the "
                "prompt is read from standard\ninput. Flags that are not given "
                "leave the choice to the server.",
            .example =
                "sparseserve generate --chat --max_tokens=100 "
                "\"Why is the sky blue?\"\n"
                "  sparseserve generate --file=book.txt "
                "--attention=xattention:stride=8,threshold=0.9"};
  }

  std::vector<Flag> flags() override {
    std::vector<Flag> flags = run_.PromptFlags();
    const auto append = [&flags](std::vector<Flag> more) {
      flags.insert(flags.end(), more.begin(), more.end());
    };
    append({
        {"max_tokens", "N", "most tokens to generate", &max_tokens_},
        {"min_tokens", "N", "fewest tokens to generate", &min_tokens_},
        {"stop", "TEXT", "end before this text; may be repeated", &stop_},
        {"ignore_eos", "", "go on past the model's end tokens", &ignore_eos_},
        {"temperature", "X", "0 takes the likeliest token", &temperature_},
        {"top_k", "N", "draw from the N likeliest tokens", &top_k_},
        {"top_p", "X", "draw from the likeliest that sum up to X", &top_p_},
        {"min_p", "X", "draw from those X times as likely as the likeliest",
         &min_p_},
        {"repetition_penalty", "X", "weaken tokens that occurred",
         &repetition_penalty_},
        {"presence_penalty", "X", "weaken tokens of the output",
         &presence_penalty_},
        {"frequency_penalty", "X", "weaken them once per occurrence",
         &frequency_penalty_},
        {"seed", "N", "the same seed gives the same text", &seed_},
        {"logprobs", "N", "with --json: N alternatives of each token",
         &logprobs_},
        {"target_ttft", "TIME", "target: time to first token, such as 200ms",
         &target_ttft_},
        {"target_tpot", "TIME", "target: time per output token", &target_tpot_},
        {"target_total", "TIME", "target: time to the last token",
         &target_total_},
        {"on_miss", "CHOICE", "dense, degrade or reject if no plan can meet it",
         &on_miss_},
    });
    append(run_.AttentionFlags());
    append({
        {"max_divergence", "X",
         "largest divergence from dense attention, in nats a\ntoken; 0 is "
         "exact",
         &max_divergence_},
        {"request_id", "TEXT", "names the request in the server's log",
         &request_id_},
        {"json", "", "print each message as a line of JSON instead", &json_},
        {"quiet", "", "print no report", &quiet_},
    });
    return flags;
  }

  absl::Status Prepare(const std::vector<std::string>& arguments) override {
    const absl::Status run = run_.Fill(arguments, options_);
    if (!run.ok()) return run;
    SetSampling();
    SetStop();
    if (logprobs_.has_value()) {
      options_.mutable_logprobs()->set_top_k(*logprobs_);
    }
    if (max_divergence_) options_.set_max_divergence(*max_divergence_);
    options_.set_request_id(request_id_);
    return SetTarget();
  }

  absl::StatusOr<ExitStatus> Run(Client& client, const CallOptions& call,
                                 Terminal& terminal) override {
    bool at_line_start = true;
    const auto on_output = [&](const v1::OutputDelta& output) {
      if (json_) {
        v1::StreamGenerateResponse message;
        *message.mutable_output() = output;
        return terminal.Write(JsonLine(message));
      }
      if (output.text().empty()) return true;
      at_line_start = absl::EndsWith(output.text(), "\n");
      return terminal.Write(output.text());
    };
    auto report = client.Generate(options_, on_output, call);
    if (!json_ && !at_line_start) terminal.Write("\n");
    if (!report.ok()) return report.status();
    if (json_) {
      v1::StreamGenerateResponse message;
      *message.mutable_report() = *std::move(report);
      terminal.Write(JsonLine(message));
    } else if (!quiet_) {
      terminal.WriteError(absl::StrCat("\n", ReportText(*report)));
    }
    return kSuccess;
  }

 private:
  void SetSampling() {
    v1::SamplingParams sampling;
    if (temperature_) sampling.set_temperature(*temperature_);
    if (top_k_) sampling.set_top_k(*top_k_);
    if (top_p_) sampling.set_top_p(*top_p_);
    if (min_p_) sampling.set_min_p(*min_p_);
    if (repetition_penalty_) {
      sampling.set_repetition_penalty(*repetition_penalty_);
    }
    if (presence_penalty_) sampling.set_presence_penalty(*presence_penalty_);
    if (frequency_penalty_) {
      sampling.set_frequency_penalty(*frequency_penalty_);
    }
    if (seed_) sampling.set_seed(*seed_);
    *options_.mutable_sampling() = std::move(sampling);
  }

  void SetStop() {
    v1::StopConditions& stop = *options_.mutable_stop();
    if (max_tokens_) stop.set_max_output_tokens(*max_tokens_);
    if (min_tokens_) stop.set_min_output_tokens(*min_tokens_);
    stop.mutable_strings()->Add(stop_.begin(), stop_.end());
    stop.set_ignore_eos(ignore_eos_);
  }

  absl::Status SetTarget() {
    v1::LatencyTarget target;
    SetDuration(target_ttft_, &v1::LatencyTarget::mutable_time_to_first_token,
                target);
    SetDuration(target_tpot_, &v1::LatencyTarget::mutable_time_per_output_token,
                target);
    SetDuration(target_total_, &v1::LatencyTarget::mutable_total, target);
    const std::string name = absl::AsciiStrToUpper(on_miss_);
    v1::LatencyTarget::OnMiss on_miss = v1::LatencyTarget::ON_MISS_UNSPECIFIED;
    if (!name.empty() && !v1::LatencyTarget::OnMiss_Parse(name, &on_miss)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "flag --on_miss=", on_miss_, ": expected dense, degrade or reject"));
    }
    target.set_on_miss(on_miss);
    if (target.ByteSizeLong() > 0) {
      *options_.mutable_latency_target() = std::move(target);
    }
    return absl::OkStatus();
  }

  RunFlags run_;
  std::optional<int32_t> max_tokens_;
  std::optional<int32_t> min_tokens_;
  std::vector<std::string> stop_;
  bool ignore_eos_ = false;
  std::optional<double> temperature_;
  std::optional<int32_t> top_k_;
  std::optional<double> top_p_;
  std::optional<double> min_p_;
  std::optional<double> repetition_penalty_;
  std::optional<double> presence_penalty_;
  std::optional<double> frequency_penalty_;
  std::optional<int64_t> seed_;
  std::optional<int32_t> logprobs_;
  std::optional<absl::Duration> target_ttft_;
  std::optional<absl::Duration> target_tpot_;
  std::optional<absl::Duration> target_total_;
  std::string on_miss_;
  std::optional<double> max_divergence_;
  std::string request_id_;
  bool json_ = false;
  bool quiet_ = false;

  v1::GenerateOptions options_;
};

}  // namespace

std::unique_ptr<Command> MakeGenerateCommand() {
  return std::make_unique<GenerateCommand>();
}

}  // namespace sparseserve
