#pragma once

#include <condition_variable>
#include <mutex>

namespace sparseserve {

// How many streams still hold on to a client's channel. The last holder must
// not be a gRPC thread: a channel that goes joins the threads that run
// callbacks, and one of them that joins itself goes on in what it freed.
// Thread-safe.
class RunningStreams {
 public:
  RunningStreams() = default;
  RunningStreams(const RunningStreams&) = delete;
  RunningStreams& operator=(const RunningStreams&) = delete;

  // Waits until none is left.
  ~RunningStreams() {
    std::unique_lock lock(mu_);
    none_.wait(lock, [this] { return running_ == 0; });
  }

  void Begin() {
    const std::lock_guard lock(mu_);
    ++running_;
  }

  // After the stream let go of its context.
  void End() {
    // Told under the lock: the waiter destroys this once it is free.
    const std::lock_guard lock(mu_);
    if (--running_ == 0) none_.notify_all();
  }

 private:
  std::mutex mu_;
  std::condition_variable none_;
  int running_ = 0;  // under mu_
};

}  // namespace sparseserve
