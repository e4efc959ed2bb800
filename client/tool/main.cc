#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/client.h"
#include "client/credentials.h"
#include "client/error_details.h"
#include "client/tool/command.h"
#include "client/tool/flag_set.h"
#include "client/tool/interrupt_watcher.h"
#include "client/tool/terminal.h"
#include "google/protobuf/stubs/logging.h"

namespace sparseserve {
namespace {

constexpr char kDefaultServer[] = "localhost:9000";

// Flags that all commands share.
struct CommonFlags {
  std::string server = kDefaultServer;
  std::optional<absl::Duration> timeout;
  bool wait = false;
  bool help = false;
  CredentialFiles credentials;

  std::vector<Flag> Describe() {
    return {
        {"server", "TARGET",
         absl::StrCat("host:port, dns:///name:port or unix:/path;\ndefault "
                      "$SPARSESERVE_SERVER, else ",
                      kDefaultServer),
         &server},
        {"tls_ca", "PATH",
         "encrypt, and take only a server whose certificate one of\nthese CAs "
         "(PEM) signed",
         &credentials.ca},
        {"tls_certificate", "PATH", "certificate and chain (PEM) to show",
         &credentials.certificate},
        {"tls_key", "PATH", "key (PEM) of --tls_certificate", &credentials.key},
        {"tls_server_name", "NAME",
         "name that the server's certificate must have, if it is\nnot that of "
         "--server",
         &credentials.server_name},
        {"token_file", "PATH",
         "send the bearer token in this file, which is read for\neach call; "
         "needs --tls_ca",
         &credentials.token},
        {"timeout", "TIME", "give up after this time, such as 30s", &timeout},
        {"wait", "", "wait for a server that is not there yet", &wait},
        {"help", "", "print this", &help},
    };
  }
};

std::vector<std::unique_ptr<Command>> MakeCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeGenerateCommand());
  commands.push_back(MakeModelsCommand());
  commands.push_back(MakeTokenizeCommand());
  commands.push_back(MakeExplainCommand());
  commands.push_back(MakeHealthCommand());
  commands.push_back(MakeLoadCommand());
  commands.push_back(MakeTopCommand());
  return commands;
}

std::string OverallHelp() {
  std::string text =
      "sparseserve: call a sparseserve server\n\n"
      "Usage: sparseserve COMMAND [flags] [arguments]\n\nCommands:\n";
  std::string examples;
  for (const auto& command : MakeCommands()) {
    const Command::Help help = command->help();
    absl::StrAppendFormat(&text, "  %-10s %s\n", help.name, help.summary);
    absl::StrAppend(&examples, "  ", help.example, "\n");
  }
  absl::StrAppend(&text, "\nExamples:\n", examples,
                  "\n`sparseserve COMMAND --help` lists the flags of a "
                  "command.\nExit status: 0 success, 1 failure, 2 wrong usage, "
                  "130 interrupted, 141 output\nclosed.\n");
  return text;
}

std::string CommandHelp(const Command& command, const FlagSet& flags) {
  const Command::Help help = command.help();
  return absl::StrCat("sparseserve ", help.name, ": ", help.summary,
                      "\n\nUsage: sparseserve ", help.name, " [flags] ",
                      help.arguments, "\n\n", help.description, "\n\nFlags:\n",
                      flags.Describe(), "\nExample:\n  ", help.example, "\n");
}

int UsageError(absl::string_view message, absl::string_view command,
               Terminal& terminal) {
  terminal.WriteError(absl::StrCat("sparseserve: ", message,
                                   "\nSee sparseserve ", command,
                                   command.empty() ? "" : " ", "--help\n"));
  return kUsage;
}

// What went wrong in a call and what to do about it.
std::string FailureText(const absl::Status& status, const CommonFlags& common) {
  std::string text = absl::StrCat("sparseserve: ", DescribeError(status), "\n");
  const bool from_server = !DecodeErrorDetails(status).reason.empty();
  if (absl::IsUnavailable(status) && !from_server) {
    absl::StrAppend(
        &text, "No server at ", common.server,
        " takes calls. Start one with `sparseserve-server --model=FILE`, or\n"
        "name another with --server=HOST:PORT; --wait waits for it, and\n"
        "`sparseserve health` tells whether it is there but not ready.\n");
  } else if (absl::IsDeadlineExceeded(status) && !from_server &&
             common.timeout.has_value()) {
    absl::StrAppend(&text, "The call did not end within --timeout=",
                    absl::FormatDuration(*common.timeout), ".\n");
  }
  return text;
}

// REQUIRES: command.Prepare() was OK.
int Call(Command& command, const CommonFlags& common, Terminal& terminal) {
  InterruptWatcher interrupts;
  auto credentials = MakeCredentials(common.credentials);
  if (!credentials.ok()) {
    return UsageError(credentials.status().message(), command.help().name,
                      terminal);
  }
  auto client =
      Client::Connect({.server = common.server,
                       .credentials = *std::move(credentials),
                       .service_config_json = command.service_config_json(),
                       .tls_server_name = common.credentials.server_name});
  if (!client.ok()) {
    terminal.WriteError(FailureText(client.status(), common));
    return kFailure;
  }
  CallOptions call;
  call.timeout = common.timeout.value_or(absl::InfiniteDuration());
  call.stop = interrupts.token();
  call.wait_for_ready = common.wait;
  const auto result = command.Run(**client, call, terminal);
  if (interrupts.signal() != 0) return 128 + interrupts.signal();
  if (terminal.error() == EPIPE) return 128 + SIGPIPE;
  if (terminal.error() != 0) {
    terminal.WriteError(absl::StrCat("sparseserve: cannot write output: ",
                                     strerror(terminal.error()), "\n"));
    return kFailure;
  }
  if (!result.ok()) {
    terminal.WriteError(FailureText(result.status(), common));
    return kFailure;
  }
  return *result;
}

int Run(const std::vector<std::string>& arguments, Terminal& terminal) {
  if (arguments.empty() || arguments[0] == "help" || arguments[0] == "--help" ||
      arguments[0] == "-h") {
    terminal.Write(OverallHelp());
    return arguments.empty() ? kUsage : kSuccess;
  }
  for (const auto& command : MakeCommands()) {
    const std::string name = command->help().name;
    if (arguments[0] != name) continue;
    CommonFlags common;
    if (const char* server = std::getenv("SPARSESERVE_SERVER")) {
      common.server = server;
    }
    std::vector<Flag> all = command->flags();
    for (Flag& flag : common.Describe()) all.push_back(std::move(flag));
    const FlagSet flags(std::move(all));
    const auto rest = flags.Parse({arguments.begin() + 1, arguments.end()});
    if (common.help) {
      terminal.Write(CommandHelp(*command, flags));
      return kSuccess;
    }
    if (!rest.ok()) return UsageError(rest.status().message(), name, terminal);
    if (absl::Status ready = command->Prepare(*rest); !ready.ok()) {
      return UsageError(ready.message(), name, terminal);
    }
    return Call(*command, common, terminal);
  }
  return UsageError(absl::StrCat("there is no command ", arguments[0]), "",
                    terminal);
}

}  // namespace
}  // namespace sparseserve

int main(int argc, char** argv) {
  // A reader that goes away shows as EPIPE where the output is written.
  std::signal(SIGPIPE, SIG_IGN);
  // Replies that cannot be parsed are told as errors of the call.
  google::protobuf::SetLogHandler(nullptr);
  sparseserve::Terminal terminal(STDOUT_FILENO, STDERR_FILENO);
  return sparseserve::Run({argv + 1, argv + argc}, terminal);
}
