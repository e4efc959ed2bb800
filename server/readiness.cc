#include "server/readiness.h"

#include <utility>

namespace sparseserve {

Readiness::Readiness(Options options, Dependencies dependencies)
    : options_(options), d_(std::move(dependencies)) {
  {
    MutexLock lock(mu_);
    Publish(true);
  }
  thread_ = std::thread([this] { Run(); });
}

Readiness::~Readiness() {
  Close();
  thread_.join();
}

void Readiness::Close() {
  MutexLock lock(mu_);
  Publish(false);
  closed_ = true;
  changed_.NotifyAll();
}

void Readiness::Run() {
  MutexLock lock(mu_);
  while (!closed_) {
    changed_.WaitFor(mu_, absl::ToChronoNanoseconds(options_.look_every));
    if (!closed_) Look();
  }
}

void Readiness::Look() {
  const bool late = d_.since_last_turn() > options_.stall_timeout;
  // An idle loop may only have overslept: its wait follows the wall clock,
  // which can be set back. It gets until the next look to show itself.
  if (late && !suspected_) {
    d_.wake_loop();
  } else {
    Publish(!late);
  }
  suspected_ = late;
}

void Readiness::Publish(bool ready) {
  if (ready == ready_) return;
  ready_ = ready;
  d_.publish(ready);
}

}  // namespace sparseserve
