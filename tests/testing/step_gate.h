#pragma once

#include "engine/base/mutex.h"

namespace sparseserve::testing {

// Lets as many steps pass as the test allows.
class StepGate {
 public:
  void Allow(int steps) {
    MutexLock lock(mu_);
    allowed_ += steps;
    changed_.NotifyAll();
  }
  void Open() { Allow(1'000'000'000); }
  void Pass() {
    MutexLock lock(mu_);
    ++arrived_;
    changed_.NotifyAll();
    while (allowed_ == 0) changed_.Wait(mu_);
    --allowed_;
  }
  void WaitForArrivals(int steps) {
    MutexLock lock(mu_);
    while (arrived_ < steps) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  int allowed_ ABSL_GUARDED_BY(mu_) = 0;
  int arrived_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace sparseserve::testing
