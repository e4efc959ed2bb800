#pragma once

#include <atomic>
#include <csignal>
#include <stop_token>
#include <thread>

namespace sparseserve {

// Turns the first SIGINT or SIGTERM into a stop request while it lives; a
// second one ends the program at once. Make it before the program has other
// threads: they must inherit the signal mask.
class InterruptWatcher {
 public:
  InterruptWatcher();
  ~InterruptWatcher();

  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

  std::stop_token token() const { return source_.get_token(); }

  // The signal that came, 0 if none did.
  int signal() const { return signal_; }

 private:
  void Watch();

  sigset_t watched_;
  sigset_t previous_;
  std::stop_source source_;
  std::atomic<int> signal_ = 0;
  std::atomic<bool> ending_ = false;
  std::thread thread_;
};

}  // namespace sparseserve
