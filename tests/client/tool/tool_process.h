#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace sparseserve {

// One run of the sparseserve tool. Ends it, if need be, when destroyed. One
// thread.
class ToolProcess {
 public:
  struct Options {
    std::vector<std::string> arguments;
    std::string standard_input;
    // Nobody reads its standard output.
    bool output_closed = false;
  };

  struct Result {
    int exit_status = -1;
    std::string out;
    std::string err;
  };

  explicit ToolProcess(const Options& options);
  ~ToolProcess();

  ToolProcess(const ToolProcess&) = delete;
  ToolProcess& operator=(const ToolProcess&) = delete;

  // Returns once standard output holds `text`, or has ended; true if it does.
  bool WaitForOutput(const std::string& text);

  void Signal(int signal) const;

  // Waits for the end. Once.
  Result Wait();

 private:
  // False at the end of the output.
  bool ReadSome();

  pid_t pid_ = -1;
  int out_ = -1;
  int err_ = -1;
  std::string out_text_;
};

// Runs the tool to its end.
ToolProcess::Result RunTool(std::vector<std::string> arguments,
                            std::string standard_input = "");

}  // namespace sparseserve
