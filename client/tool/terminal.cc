#include "client/tool/terminal.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

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
    : out_(out), err_(err), out_is_screen_(isatty(out) == 1) {}

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

}  // namespace sparseserve
