#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "tests/integration/child_process.h"

namespace sparseserve::testing {

// The real server on free ports of this machine, serving the default model
// unless `flags` say otherwise.
class ServerProcess {
 public:
  // Returns when it serves; fails the test if it ends before.
  explicit ServerProcess(const std::vector<std::string>& flags);

  ChildProcess& process() { return process_; }
  int port() const { return port_; }
  int metrics_port() const { return metrics_port_; }
  int health_port() const;  // with --health_listen

  // Of a scrape, see SumOfSeries().
  double Series(const std::string& name,
                std::initializer_list<std::string> labels) const;
  // Polls until the series has `value`.
  void WaitForSeries(const std::string& name,
                     std::initializer_list<std::string> labels,
                     double value) const;
  // Once nothing runs, every page is free or cached and no output waits.
  void ExpectIdle() const;

 private:
  ChildProcess process_;
  int port_ = 0;
  int metrics_port_ = 0;
  int pages_ = 0;
};

// Runs the server with `flags` alone, which must make it refuse to start.
struct FailedStart {
  int status = 0;
  std::string output;
};
FailedStart RunServer(const std::vector<std::string>& flags);

}  // namespace sparseserve::testing
