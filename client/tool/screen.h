#pragma once

#include <termios.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/tool/styled_line.h"

namespace sparseserve {

// A terminal's whole screen, drawn again and again; what it showed before comes
// back at the end. One thread.
class Screen {
 public:
  struct Size {
    int columns = 80, rows = 24;
    bool operator==(const Size&) const = default;
  };

  // Borrows the descriptors. REQUIRES: `out` is a terminal. Keys are read only
  // if `in` is one.
  Screen(int in, int out);
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  Size size() const;

  // In place of what stood there; lines beyond the size are cut.
  void Draw(const std::vector<StyledLine>& lines);

  // Waits for a key, `at_most` so long. Nothing if none came.
  std::optional<char> WaitForKey(absl::Duration at_most);

 private:
  void Write(absl::string_view text) const;

  const int in_, out_;
  const bool colours_;
  std::optional<termios> before_;  // of `in`; nothing if that is no terminal
};

}  // namespace sparseserve
