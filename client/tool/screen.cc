#include "client/tool/screen.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace sparseserve {

Screen::Screen(int in, int out)
    // https://no-color.org
    : in_(in), out_(out), colours_(std::getenv("NO_COLOR") == nullptr) {
  termios settings = {};
  if (isatty(in) == 1 && tcgetattr(in, &settings) == 0) {
    before_ = settings;
    // Each key at once and unseen; Ctrl-C stays a signal.
    settings.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    settings.c_cc[VMIN] = 1;
    settings.c_cc[VTIME] = 0;
    tcsetattr(in, TCSANOW, &settings);
  }
  Write("\x1b[?1049h\x1b[?25l\x1b[2J");  // the other screen, no cursor
}

Screen::~Screen() {
  Write("\x1b[?25h\x1b[?1049l");
  if (before_.has_value()) tcsetattr(in_, TCSANOW, &*before_);
}

Screen::Size Screen::size() const {
  winsize size = {};
  if (ioctl(out_, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 ||
      size.ws_row == 0) {
    return {};
  }
  return {size.ws_col, size.ws_row};
}

void Screen::Draw(const std::vector<StyledLine>& lines) {
  const Size now = size();
  std::string text = "\x1b[H";
  const size_t rows = std::min<size_t>(lines.size(), now.rows);
  for (size_t i = 0; i < rows; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : "\r\n",
                    lines[i].Render(now.columns, colours_), "\x1b[K");
  }
  absl::StrAppend(&text, "\x1b[J");
  Write(text);
}

std::optional<char> Screen::WaitForKey(absl::Duration at_most) {
  pollfd keys = {before_.has_value() ? in_ : -1, POLLIN, 0};
  poll(&keys, 1, static_cast<int>(absl::ToInt64Milliseconds(at_most)));
  char key = 0;
  if ((keys.revents & POLLIN) == 0 || read(in_, &key, 1) != 1) {
    return std::nullopt;
  }
  return key;
}

void Screen::Write(absl::string_view text) const {
  while (!text.empty()) {
    const ssize_t written = write(out_, text.data(), text.size());
    if (written < 0 && errno != EINTR) return;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace sparseserve
