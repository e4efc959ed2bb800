#include "client/tool/prompt.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/tool/printable_text.h"

namespace sparseserve {
namespace {

constexpr size_t kMaxPromptBytes = 64 << 20;

absl::StatusOr<std::string> ReadAll(int fd, absl::string_view name) {
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got == 0) return text;
    if (got > 0) {
      text.append(buffer, static_cast<size_t>(got));
    } else if (errno != EINTR) {
      return absl::NotFoundError(
          absl::StrCat("cannot read ", name, ": ", std::strerror(errno)));
    }
    if (text.size() > kMaxPromptBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " holds more than ", kMaxPromptBytes, " bytes"));
    }
  }
}

absl::StatusOr<std::string> ReadFile(absl::string_view path) {
  const int fd = open(std::string(path).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::NotFoundError(
        absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  const absl::Cleanup close_file = [fd] { close(fd); };
  return ReadAll(fd, path);
}

absl::StatusOr<std::string> ReadStandardInput() {
  return ReadAll(STDIN_FILENO, "standard input");
}

absl::StatusOr<std::string> ReadUnchecked(
    const std::vector<std::string>& arguments, absl::string_view file) {
  if (arguments.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected one text, got ", arguments.size(),
                     " arguments; put the text into quotes"));
  }
  if (!arguments.empty() && !file.empty()) {
    return absl::InvalidArgumentError(
        "the text is given twice, as an argument and by --file");
  }
  if (file == "-" || (!arguments.empty() && arguments[0] == "-")) {
    return ReadStandardInput();
  }
  if (!file.empty()) return ReadFile(file);
  if (!arguments.empty()) return arguments[0];
  if (isatty(STDIN_FILENO) == 1) {
    return absl::InvalidArgumentError(
        "no text; give it in quotes, by --file=PATH or on standard input");
  }
  return ReadStandardInput();
}

}  // namespace

absl::StatusOr<std::string> ReadPrompt(
    const std::vector<std::string>& arguments, absl::string_view file) {
  absl::StatusOr<std::string> text = ReadUnchecked(arguments, file);
  if (text.ok() && !IsValidUtf8(*text)) {
    return absl::InvalidArgumentError("the text is not valid UTF-8");
  }
  return text;
}

}  // namespace sparseserve
