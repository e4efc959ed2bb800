#include "client/tool/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/tool/printable_text.h"

namespace sparseserve {
namespace {

// 0, or the errno of the write that failed.
int WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      // Whoever shares the descriptor made it non-blocking.
      pollfd writable = {.fd = fd, .events = POLLOUT, .revents = 0};
      poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace

Terminal::Terminal(int out, int err)
    : out_(out),
      err_(err),
      out_is_screen_(isatty(out) == 1),
      err_is_screen_(isatty(err) == 1) {}

bool Terminal::Write(absl::string_view text) {
  if (error_ == 0) {
    error_ = WriteAll(
        out_, out_is_screen_ ? WithoutControls(text) : WithValidUtf8(text));
  }
  return error_ == 0;
}

void Terminal::WriteError(absl::string_view text) {
  WriteAll(err_, WithoutControls(text));
}

void Terminal::ShowProgress(absl::string_view lines) {
  if (!err_is_screen_) {
    WriteError(lines);
    return;
  }
  winsize size = {};
  const bool known = ioctl(err_, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  const size_t width = known ? size.ws_col - 1 : 79;
  std::string text;
  if (progress_lines_ > 0) {
    text = absl::StrCat("\x1b[", progress_lines_, "A\r");
  }
  progress_lines_ = 0;
  absl::ConsumeSuffix(&lines, "\n");
  for (const absl::string_view line : absl::StrSplit(lines, '\n')) {
    absl::StrAppend(&text, WithoutControls(line.substr(0, width)), "\x1b[K\n");
    ++progress_lines_;
  }
  WriteAll(err_, text);
}

}  // namespace sparseserve
