#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/tool/flag_set.h"
#include "client/tool/terminal.h"

namespace sparseserve {

// Exit statuses of the tool. A call stopped by a signal exits with 128 plus the
// signal's number, one whose output was closed with that of SIGPIPE.
enum ExitStatus : int { kSuccess = 0, kFailure = 1, kUsage = 2 };

// One subcommand: what its help says, its flags, and what it does. An object
// serves one run: help, or flags, Prepare and Run in this order.
class Command {
 public:
  struct Help {
    std::string name;
    std::string summary;
    // What follows the flags on the command line, such as "[PROMPT]".
    std::string arguments;
    // May be empty.
    std::string description;
    std::string example;
  };

  virtual ~Command() = default;

  virtual Help help() const = 0;

  // Bound to the members of this object.
  virtual std::vector<Flag> flags() = 0;

  // Checks flags and arguments and reads the input, before any connection.
  // Signals still end the program here, so it may wait for a keyboard.
  virtual absl::Status Prepare(const std::vector<std::string>& arguments) = 0;

  // Client::Options::service_config_json of the calls.
  virtual std::string service_config_json() const { return ""; }

  // Makes the calls and prints. A status other than OK is printed by the
  // caller. A write to `terminal` that fails ends the run early, with OK.
  virtual absl::StatusOr<ExitStatus> Run(Client& client,
                                         const CallOptions& call,
                                         Terminal& terminal) = 0;
};

std::unique_ptr<Command> MakeGenerateCommand();
std::unique_ptr<Command> MakeModelsCommand();
std::unique_ptr<Command> MakeTokenizeCommand();
std::unique_ptr<Command> MakeExplainCommand();
std::unique_ptr<Command> MakeHealthCommand();
std::unique_ptr<Command> MakeLoadCommand();
std::unique_ptr<Command> MakeTopCommand();

}  // namespace sparseserve
