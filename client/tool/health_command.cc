#include "absl/strings/str_cat.h"
#include "client/tool/command.h"

namespace sparseserve {
namespace {

absl::string_view HealthName(Health health) {
  switch (health) {
    case Health::kServing:
      return "SERVING";
    case Health::kNotServing:
      return "NOT_SERVING";
    case Health::kServiceUnknown:
      return "SERVICE_UNKNOWN";
    case Health::kUnknown:
      break;
  }
  return "UNKNOWN";
}

class HealthCommand : public Command {
 public:
  Help help() const override {
    return {.name = "health",
            .summary = "ask whether a server serves",
            .arguments = "[SERVICE]",
            .description =
                "Prints SERVING, NOT_SERVING or SERVICE_UNKNOWN; exits with 0 "
                "only for SERVING.\nSERVICE is a full name such as "
                "sparseserve.v1.InferenceService; without one\nthe server as a "
                "whole answers.",
            .example = "sparseserve health --timeout=2s"};
  }

  std::vector<Flag> flags() override {
    return {{"watch", "", "print each change until interrupted", &watch_},
            {"quiet", "", "print nothing", &quiet_}};
  }

  absl::Status Prepare(const std::vector<std::string>& arguments) override {
    if (arguments.size() > 1) {
      return absl::InvalidArgumentError("expected at most one service");
    }
    if (!arguments.empty()) service_ = arguments[0];
    return absl::OkStatus();
  }

  absl::StatusOr<ExitStatus> Run(Client& client, const CallOptions& call,
                                 Terminal& terminal) override {
    Health last = Health::kUnknown;
    const auto show = [&](Health health) {
      last = health;
      return quiet_ || terminal.Write(absl::StrCat(HealthName(health), "\n"));
    };
    if (watch_) {
      absl::Status status = client.WatchHealth(service_, show, call);
      if (!status.ok()) return status;
    } else {
      auto health = client.CheckHealth(service_, call);
      if (!health.ok()) return health.status();
      show(*health);
    }
    return last == Health::kServing ? kSuccess : kFailure;
  }

 private:
  bool watch_ = false;
  bool quiet_ = false;
  std::string service_;
};

}  // namespace

std::unique_ptr<Command> MakeHealthCommand() {
  return std::make_unique<HealthCommand>();
}

}  // namespace sparseserve
