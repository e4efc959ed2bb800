#include "tests/integration/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "gtest/gtest.h"

extern char** environ;

namespace sparseserve::testing {

ChildProcess::ChildProcess(const std::vector<std::string>& arguments) {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  output_ = ends[0];
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  EXPECT_EQ(
      posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0)
      << arguments[0];
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  reader_ = std::thread([this] { ReadOutput(); });
}

ChildProcess::~ChildProcess() {
  if (!waited_) Send(SIGKILL);
  Wait();
  reader_.join();
  close(output_);
}

std::string ChildProcess::Output() const {
  MutexLock lock(mu_);
  return text_;
}

std::string ChildProcess::WaitForLine(const std::string& text) const {
  MutexLock lock(mu_);
  for (;;) {
    const size_t found = text_.find(text);
    const size_t end = text_.find('\n', found);
    if (found != std::string::npos && end != std::string::npos) {
      const size_t begin = text_.rfind('\n', found);
      return text_.substr(begin + 1, end - begin - 1);
    }
    if (closed_) return "";
    changed_.Wait(mu_);
  }
}

void ChildProcess::Send(int signal) { kill(pid_, signal); }

int ChildProcess::Wait() {
  if (waited_) return status_;
  int status = 0;
  EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
  waited_ = true;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return status_;
}

void ChildProcess::ReadOutput() {
  char buffer[4096];
  for (ssize_t n; (n = read(output_, buffer, sizeof(buffer))) > 0;) {
    MutexLock lock(mu_);
    text_.append(buffer, n);
    changed_.NotifyAll();
  }
  MutexLock lock(mu_);
  closed_ = true;
  changed_.NotifyAll();
}

}  // namespace sparseserve::testing
