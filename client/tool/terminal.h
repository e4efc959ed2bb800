#pragma once

#include "absl/strings/string_view.h"

namespace sparseserve {

// Standard output and standard error of one run of a program. Writes valid
// UTF-8 only, at once; control characters do not reach a screen. One thread.
class Terminal {
 public:
  // Borrows the file descriptors.
  Terminal(int out, int err);

  // Writes to standard output. False once a write failed: the rest of the run's
  // output is lost, and its cause is in `error()`.
  bool Write(absl::string_view text);

  // Writes to standard error, best effort.
  void WriteError(absl::string_view text);

  // Whether standard error is a screen.
  bool error_is_screen() const { return err_is_screen_; }

  // Writes lines to standard error; on a screen in the place of those that the
  // call before wrote, cut to its width.
  void ShowProgress(absl::string_view lines);

  // Lets what comes next stand below the progress.
  void EndProgress() { progress_lines_ = 0; }

  // errno of the first write to standard output that failed; EPIPE if its
  // reader went away. 0 if none did.
  int error() const { return error_; }

 private:
  const int out_;
  const int err_;
  const bool out_is_screen_;
  const bool err_is_screen_;
  int progress_lines_ = 0;
  int error_ = 0;
};

}  // namespace sparseserve
