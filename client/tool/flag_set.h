#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sparseserve {

// A flag of a command and the variable that it fills, which must outlive the
// parsing. A list takes the flag again and again.
struct Flag {
  using Target =
      std::variant<bool*, std::string*, std::vector<std::string>*,
                   std::optional<int32_t>*, std::optional<int64_t>*,
                   std::optional<double>*, std::optional<absl::Duration>*>;

  // Lower case with underscores. Dashes are accepted instead of them.
  std::string name;
  // Stands for the value in the help, such as "N"; empty for bool.
  std::string placeholder;
  std::string help;
  Target target;
};

// The flags of one command. Values are given as --name=value or --name value,
// bools as --name; "--" ends the flags.
class FlagSet {
 public:
  explicit FlagSet(std::vector<Flag> flags) : flags_(std::move(flags)) {}

  // Fills the targets and returns the arguments that are not flags.
  // INVALID_ARGUMENT names the first flag that is unknown or whose value does
  // not fit; targets of flags before it are filled then.
  absl::StatusOr<std::vector<std::string>> Parse(
      const std::vector<std::string>& arguments) const;

  // One line or more for each flag, in the order given.
  std::string Describe() const;

 private:
  const Flag* Find(absl::string_view name) const;

  std::vector<Flag> flags_;
};

}  // namespace sparseserve
