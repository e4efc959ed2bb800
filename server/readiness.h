#pragma once

#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "engine/base/mutex.h"

namespace sparseserve {

// Whether the server says that it serves: from its start to Close(), as long as
// the serving loop turns. A loop whose step hangs answers nobody, and callers
// should go elsewhere until it comes back. Looks on a thread of its own.
// Thread-safe.
class Readiness {
 public:
  struct Options {
    // A turn that takes longer hangs. At least what the longest step takes.
    absl::Duration stall_timeout = absl::Minutes(2);
    absl::Duration look_every = absl::Seconds(1);  // above 0
  };
  struct Dependencies {  // what they use outlives this; none may call this
    std::function<absl::Duration()> since_last_turn;
    // Asks an idle loop for a turn.
    std::function<void()> wake_loop;
    // Tells health checks and metrics, when it changes; one call at a time.
    std::function<void(bool)> publish;
  };
  // Publishes true.
  Readiness(Options options, Dependencies dependencies);
  ~Readiness();

  // Publishes false, and nothing from then on.
  void Close();

 private:
  void Run();
  void Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Publish(bool ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const Dependencies d_;
  Mutex mu_;
  CondVar changed_;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  bool suspected_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace sparseserve
