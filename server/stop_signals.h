#pragma once

#include <atomic>
#include <csignal>

namespace sparseserve {

// Turns SIGTERM, SIGINT and a failed device into a return of Wait(). Made first
// thing in main, on the thread that will Wait(), before any other thread: all
// inherit that the signals are blocked. No signal handler does any work.
class StopSignals {
 public:
  enum class Cause { kSignal, kDeviceFailed };

  StopSignals();

  // Whether a signal has come that Wait() would return for: what takes long
  // before Wait() asks.
  bool signalled() const;

  // Blocks until one of them. After a signal, a second one ends the process at
  // once, with status 1.
  Cause Wait();

  // Any thread, as the next.
  void DeviceFailed();
  // As a SIGTERM.
  void Stop();

 private:
  sigset_t signals_;
  std::atomic<bool> device_failed_{false};
  std::atomic<bool> stopped_{false};
};

}  // namespace sparseserve
