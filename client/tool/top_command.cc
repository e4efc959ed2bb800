#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/load/metrics_scrape.h"
#include "client/tool/command.h"
#include "client/tool/console_report.h"
#include "client/tool/screen.h"
#include "client/tool/top_text.h"

namespace sparseserve {
namespace {

constexpr char kDefaultMetrics[] = "localhost:9090";
constexpr absl::Duration kEvery = absl::Seconds(1);
// How soon it sees that the screen has another size, or that it is to end.
constexpr absl::Duration kLook = absl::Milliseconds(100);

class TopCommand : public Command {
 public:
  Help help() const override {
    return {.name = "top",
            .summary = "watch a server: requests, latency, attention, memory",
            .arguments = "",
            .description =
                "Shows what the page of the server's metrics port shows, and "
                "asks that port, not\n--server. Keys: a for figures since the "
                "start or of the last minute, q to quit.\nNO_COLOR=1 leaves "
                "out colours.",
            .example =
                "sparseserve top\n"
                "  sparseserve top --metrics=10.0.0.7:9090 --all\n"
                "  sparseserve top --once | grep 'first token'"};
  }

  std::vector<Flag> flags() override {
    return {
        {"metrics", "HOST:PORT",
         absl::StrCat("the server's metrics port; default ", kDefaultMetrics),
         &metrics_},
        {"all", "", "figures since the server started", &all_},
        {"once", "", "print one screen and end", &once_}};
  }

  absl::Status Prepare(const std::vector<std::string>& arguments) override {
    if (!arguments.empty()) {
      return absl::InvalidArgumentError("expected no arguments");
    }
    if (!once_ && isatty(STDOUT_FILENO) != 1) {
      return absl::InvalidArgumentError(
          "standard output is not a terminal: use --once");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExitStatus> Run(Client&, const CallOptions& call,
                                 Terminal& terminal) override {
    const absl::Duration timeout = std::min(call.timeout, absl::Seconds(2));
    if (once_) return PrintOnce(timeout, terminal);
    Watch(timeout, call.stop);
    return kSuccess;
  }

 private:
  absl::StatusOr<ConsoleReport> Fetch(absl::Duration timeout) const {
    const auto reply = FetchFromMetricsPort(metrics_, "/console.json", timeout);
    if (!reply.ok()) return reply.status();
    return ConsoleReport::Parse(*reply);
  }

  absl::StatusOr<ExitStatus> PrintOnce(absl::Duration timeout,
                                       Terminal& terminal) const {
    const auto report = Fetch(timeout);
    if (!report.ok()) return report.status();
    constexpr int kColumns = 80;
    for (const StyledLine& line :
         TopText(*report, {.columns = kColumns, .since_start = all_})) {
      // What is longer goes on: nobody sees a line that was cut here.
      constexpr int kWhole = 1 << 20;
      if (!terminal.Write(line.Render(kWhole, /*colours=*/false) + "\n")) break;
    }
    return kSuccess;
  }

  void Watch(absl::Duration timeout, const std::stop_token& stop) {
    Screen screen(STDIN_FILENO, STDOUT_FILENO);
    std::optional<ConsoleReport> report;
    while (!stop.stop_requested()) {
      auto fetched = Fetch(timeout);
      const absl::Status status = fetched.status();
      if (fetched.ok()) report = *std::move(fetched);
      if (ShowUntil(absl::Now() + kEvery, report, status, stop, screen)) return;
    }
  }

  // Draws, and again when a key or another size asks for it. True to quit.
  bool ShowUntil(absl::Time end, const std::optional<ConsoleReport>& report,
                 const absl::Status& status, const std::stop_token& stop,
                 Screen& screen) {
    bool is_drawn = false;
    Screen::Size drawn;
    while (absl::Now() < end && !stop.stop_requested()) {
      if (const Screen::Size size = screen.size();
          !is_drawn || !(drawn == size)) {
        screen.Draw(Lines(report, status, size.columns));
        drawn = size;
        is_drawn = true;
      }
      const std::optional<char> key = screen.WaitForKey(kLook);
      if (!key.has_value()) continue;
      if (*key == 'q' || *key == 'Q') return true;
      if (*key == 'a') all_ = !all_;
      is_drawn = false;
    }
    return false;
  }

  std::vector<StyledLine> Lines(const std::optional<ConsoleReport>& report,
                                const absl::Status& status, int columns) const {
    std::vector<StyledLine> lines;
    if (!status.ok()) {
      lines.emplace_back(
          absl::StrCat("No answer: ", absl::string_view(status.message())),
          TextStyle::kBad);
    }
    if (!report.has_value()) return lines;
    for (StyledLine& line :
         TopText(*report, {.columns = columns, .since_start = all_})) {
      lines.push_back(std::move(line));
    }
    return lines;
  }

  std::string metrics_ = kDefaultMetrics;
  bool all_ = false;
  bool once_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeTopCommand() {
  return std::make_unique<TopCommand>();
}

}  // namespace sparseserve
