#pragma once

#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "engine/base/mutex.h"

namespace sparseserve {

// What health checks say of the server: that it lives as long as the serving
// loop turns, and that it is ready for callers from its start to Close() as
// long as it lives. A loop whose step hangs answers nobody, and callers should
// go elsewhere until it comes back. Looks on a thread of its own. Thread-safe.
class Readiness {
 public:
  struct Options {
    // A turn that takes longer hangs. At least what the longest step takes.
    absl::Duration stall_timeout = absl::Minutes(2);
    absl::Duration look_every = absl::Seconds(1);  // above 0
  };
  struct Health {
    bool alive = true;
    bool ready = false;
    friend bool operator==(const Health&, const Health&) = default;
  };
  struct Dependencies {  // what they use outlives this; none may call this
    std::function<absl::Duration()> since_last_turn;
    // Asks an idle loop for a turn.
    std::function<void()> wake_loop;
    // Tells health checks and metrics, when it changes; one call at a time.
    std::function<void(const Health&)> publish;
  };
  // Publishes that it is alive and ready.
  Readiness(Options options, Dependencies dependencies);
  ~Readiness();

  // Publishes that it is not ready, for good. Goes on to look whether it lives.
  void Close();
  // The loop ended as it should: looks no more.
  void LoopEnded();

 private:
  void Run();
  void Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Publish(const Health& health) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const Dependencies d_;
  Mutex mu_;
  CondVar changed_;
  Health health_ ABSL_GUARDED_BY(mu_);
  bool suspected_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace sparseserve
