#include "client/tool/flag_set.h"

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace sparseserve {
namespace {

constexpr size_t kHelpColumn = 27;

// Fills one target from a flag's value; false if the value does not fit.
struct Assign {
  absl::string_view value;

  bool operator()(bool*) const { return false; }
  bool operator()(std::string* target) const {
    *target = std::string(value);
    return true;
  }
  bool operator()(std::vector<std::string>* target) const {
    target->emplace_back(value);
    return true;
  }
  bool operator()(std::optional<int32_t>* target) const {
    return absl::SimpleAtoi(value, &target->emplace());
  }
  bool operator()(std::optional<int64_t>* target) const {
    return absl::SimpleAtoi(value, &target->emplace());
  }
  bool operator()(std::optional<double>* target) const {
    return absl::SimpleAtod(value, &target->emplace());
  }
  bool operator()(std::optional<absl::Duration>* target) const {
    return absl::ParseDuration(value, &target->emplace());
  }
};

// What a value of each target looks like.
struct Expectation {
  absl::string_view operator()(bool*) const { return "no value"; }
  absl::string_view operator()(std::string*) const { return "text"; }
  absl::string_view operator()(std::vector<std::string>*) const {
    return "text";
  }
  absl::string_view operator()(std::optional<int32_t>*) const {
    return "a whole number of 32 bits";
  }
  absl::string_view operator()(std::optional<int64_t>*) const {
    return "a whole number of 64 bits";
  }
  absl::string_view operator()(std::optional<double>*) const {
    return "a number";
  }
  absl::string_view operator()(std::optional<absl::Duration>*) const {
    return "a time such as 200ms or 1.5s";
  }
};

}  // namespace

const Flag* FlagSet::Find(absl::string_view name) const {
  const std::string canonical = absl::StrReplaceAll(name, {{"-", "_"}});
  const auto found =
      std::find_if(flags_.begin(), flags_.end(),
                   [&](const Flag& flag) { return flag.name == canonical; });
  return found == flags_.end() ? nullptr : &*found;
}

absl::StatusOr<std::vector<std::string>> FlagSet::Parse(
    const std::vector<std::string>& arguments) const {
  std::vector<std::string> positional;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (argument == "--") {
      positional.insert(positional.end(), arguments.begin() + i + 1,
                        arguments.end());
      break;
    }
    if (!absl::ConsumePrefix(&argument, "--")) {
      positional.push_back(arguments[i]);
      continue;
    }
    const size_t equals = argument.find('=');
    const absl::string_view name = argument.substr(0, equals);
    const Flag* flag = Find(name);
    if (flag == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no flag --", name));
    }
    if (bool* const* target = std::get_if<bool*>(&flag->target);
        target != nullptr && equals == argument.npos) {
      **target = true;
      continue;
    }
    absl::string_view value;
    if (equals != argument.npos) {
      value = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size()) {
      value = arguments[++i];
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("flag --", name, " needs a value: --", flag->name, "=",
                       flag->placeholder));
    }
    if (!std::visit(Assign{value}, flag->target)) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag --", name, "=", value, ": expected ",
                       std::visit(Expectation(), flag->target)));
    }
  }
  return positional;
}

std::string FlagSet::Describe() const {
  std::string text;
  for (const Flag& flag : flags_) {
    std::string left = absl::StrCat("  --", flag.name);
    if (!flag.placeholder.empty()) {
      absl::StrAppend(&left, "=", flag.placeholder);
    }
    if (left.size() + 2 > kHelpColumn) {
      absl::StrAppend(&text, left, "\n", std::string(kHelpColumn, ' '));
    } else {
      absl::StrAppend(&text, left, std::string(kHelpColumn - left.size(), ' '));
    }
    absl::StrAppend(
        &text,
        absl::StrReplaceAll(flag.help,
                            {{"\n", "\n" + std::string(kHelpColumn, ' ')}}),
        "\n");
  }
  return text;
}

}  // namespace sparseserve
