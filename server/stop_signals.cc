#include "server/stop_signals.h"

#include <pthread.h>
#include <unistd.h>

namespace sparseserve {
namespace {

void ExitAtOnce(int) { _exit(1); }

}  // namespace

StopSignals::StopSignals() {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGINT);
  sigaddset(&signals_, SIGUSR1);  // DeviceFailed()
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
}

bool StopSignals::signalled() const {
  sigset_t pending;
  return sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) == 1 ||
                                       sigismember(&pending, SIGINT) == 1);
}

StopSignals::Cause StopSignals::Wait() {
  int signal = 0;
  do {
    sigwait(&signals_, &signal);
  } while (signal == SIGUSR1 && !device_failed_);
  if (signal == SIGUSR1) return Cause::kDeviceFailed;

  // Not the default action: the kernel withholds that from the first process
  // of a container.
  struct sigaction action = {};
  action.sa_handler = ExitAtOnce;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_UNBLOCK, &stop, nullptr);
  return Cause::kSignal;
}

void StopSignals::Stop() {
  // A second signal would end the process at once.
  if (!stopped_.exchange(true)) kill(getpid(), SIGTERM);
}

void StopSignals::DeviceFailed() {
  device_failed_ = true;
  kill(getpid(), SIGUSR1);
}

}  // namespace sparseserve
