#include "server/readiness.h"

#include <utility>

namespace sparseserve {

Readiness::Readiness(Options options, Dependencies dependencies)
    : options_(options), d_(std::move(dependencies)) {
  {
    MutexLock lock(mu_);
    Publish({.alive = true, .ready = true});
  }
  thread_ = std::thread([this] { Run(); });
}

Readiness::~Readiness() {
  Close();
  LoopEnded();
  thread_.join();
}

void Readiness::Close() {
  MutexLock lock(mu_);
  closed_ = true;
  Publish({.alive = health_.alive, .ready = false});
}

void Readiness::LoopEnded() {
  MutexLock lock(mu_);
  stop_ = true;
  changed_.NotifyAll();
}

void Readiness::Run() {
  MutexLock lock(mu_);
  while (!stop_) {
    changed_.WaitFor(mu_, absl::ToChronoNanoseconds(options_.look_every));
    if (!stop_) Look();
  }
}

void Readiness::Look() {
  const bool late = d_.since_last_turn() > options_.stall_timeout;
  // An idle loop may only have overslept: its wait follows the wall clock,
  // which can be set back. It gets until the next look to show itself.
  if (late && !suspected_) {
    d_.wake_loop();
  } else {
    Publish({.alive = !late, .ready = !late && !closed_});
  }
  suspected_ = late;
}

void Readiness::Publish(const Health& health) {
  if (health == health_) return;
  health_ = health;
  d_.publish(health);
}

}  // namespace sparseserve
