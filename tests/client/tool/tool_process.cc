#include "tests/client/tool/tool_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <utility>

namespace sparseserve {
namespace {

// An unnamed file that holds `content`, read from its beginning.
int MakeFile(const std::string& content) {
  const int fd = memfd_create("tool", MFD_CLOEXEC);
  if (fd < 0 || write(fd, content.data(), content.size()) !=
                    static_cast<ssize_t>(content.size())) {
    std::abort();
  }
  lseek(fd, 0, SEEK_SET);
  return fd;
}

}  // namespace

ToolProcess::ToolProcess(const Options& options) {
  std::array<int, 2> pipe_ends = {};
  if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0) std::abort();
  const int in = MakeFile(options.standard_input);
  err_ = MakeFile("");
  out_ = pipe_ends[0];
  if (options.output_closed) {
    close(out_);
    out_ = -1;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err_, STDERR_FILENO);
  std::vector<std::string> words = options.arguments;
  words.insert(words.begin(), "sparseserve");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  if (posix_spawn(&pid_, SPARSESERVE_TOOL, &actions, nullptr, argv.data(),
                  environ) != 0) {
    std::abort();
  }
  posix_spawn_file_actions_destroy(&actions);
  close(in);
  close(pipe_ends[1]);
}

ToolProcess::~ToolProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (out_ >= 0) close(out_);
  close(err_);
}

bool ToolProcess::ReadSome() {
  std::array<char, 4096> buffer;
  const ssize_t got = out_ < 0 ? 0 : read(out_, buffer.data(), buffer.size());
  if (got <= 0) return false;
  out_text_.append(buffer.data(), static_cast<size_t>(got));
  return true;
}

bool ToolProcess::WaitForOutput(const std::string& text) {
  while (out_text_.find(text) == std::string::npos) {
    if (!ReadSome()) return false;
  }
  return true;
}

void ToolProcess::Signal(int signal) const { kill(pid_, signal); }

ToolProcess::Result ToolProcess::Wait() {
  while (ReadSome()) {
  }
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  Result result;
  result.exit_status =
      WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  result.out = std::move(out_text_);
  result.err.resize(static_cast<size_t>(lseek(err_, 0, SEEK_END)));
  if (pread(err_, result.err.data(), result.err.size(), 0) < 0) std::abort();
  return result;
}

ToolProcess::Result RunTool(std::vector<std::string> arguments,
                            std::string standard_input) {
  return ToolProcess({.arguments = std::move(arguments),
                      .standard_input = std::move(standard_input)})
      .Wait();
}

}  // namespace sparseserve
