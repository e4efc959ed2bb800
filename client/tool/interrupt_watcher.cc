#include "client/tool/interrupt_watcher.h"

#include <pthread.h>
#include <unistd.h>

namespace sparseserve {
namespace {

// nohup and shells ignore signals on behalf of what they start.
bool IsIgnored(int signal) {
  struct sigaction action = {};
  return sigaction(signal, nullptr, &action) == 0 &&
         action.sa_handler == SIG_IGN;
}

}  // namespace

InterruptWatcher::InterruptWatcher() {
  sigemptyset(&watched_);
  // Also wakes the thread when it is to end.
  sigaddset(&watched_, SIGTERM);
  if (!IsIgnored(SIGINT)) sigaddset(&watched_, SIGINT);
  pthread_sigmask(SIG_BLOCK, &watched_, &previous_);
  thread_ = std::thread([this] { Watch(); });
}

InterruptWatcher::~InterruptWatcher() {
  ending_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
}

void InterruptWatcher::Watch() {
  while (true) {
    int signal = 0;
    sigwait(&watched_, &signal);
    if (ending_) return;
    if (signal_ != 0) _exit(128 + signal);
    signal_ = signal;
    source_.request_stop();
  }
}

}  // namespace sparseserve
