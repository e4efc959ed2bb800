#pragma once

#include <sys/types.h>

#include <string>
#include <thread>
#include <vector>

#include "engine/base/mutex.h"

namespace sparseserve::testing {

// A program that runs beside the test; killed at the end if it still runs.
class ChildProcess {
 public:
  // `arguments` begin with the program's path.
  explicit ChildProcess(const std::vector<std::string>& arguments);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // What it printed so far, on either stream.
  std::string Output() const;
  // The first line that contains `text`; empty if the program closed its
  // output without one.
  std::string WaitForLine(const std::string& text) const;

  void Send(int signal);
  // Its exit status, or minus the signal that ended it.
  int Wait();

 private:
  void ReadOutput();

  pid_t pid_ = -1;
  int output_ = -1;
  bool waited_ = false;
  int status_ = 0;
  std::thread reader_;
  mutable Mutex mu_;
  mutable CondVar changed_;
  std::string text_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sparseserve::testing
