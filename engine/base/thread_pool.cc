#include "engine/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/mutex.h"
#include "hwy/cache_control.h"

namespace sparseserve {
namespace {

using Body = absl::FunctionRef<void(int64_t, int64_t, int)>;

// A step has hundreds of regions a few microseconds apart: workers stay awake
// across these gaps, and sleep soon after the step.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kPausesPerYield = 16;

// Polls `ready` for about kSpin; returns whether it came true. Yields between
// polls: on a busy machine the thread that is waited for may need this core.
template <typename Predicate>
bool SpinUntil(Predicate ready) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerYield; ++i) {
      if (ready()) return true;
      hwy::Pause();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

}  // namespace

// How a region is handed out. `unclaimed` counts ranges that nobody took yet;
// taking one is a compare-and-swap that decrements it. The job's fields are
// written while `unclaimed` is 0 and read only by a worker that took a range,
// which keeps the caller inside ParallelFor(): a late riser sees 0 and never
// touches them.
struct ThreadPool::State {
  explicit State(int threads) {
    workers.reserve(threads - 1);
    for (int worker = 1; worker < threads; ++worker) {
      workers.emplace_back([this, worker] { Run(worker); });
    }
  }

  ~State() {
    {
      MutexLock lock(mu);
      stop = true;
    }
    wake.NotifyAll();
    for (std::thread& worker : workers) worker.join();
  }

  // Takes and computes ranges until none is left.
  void Work(int worker) {
    int64_t left = unclaimed.load(std::memory_order_acquire);
    while (left > 0) {
      if (!unclaimed.compare_exchange_weak(left, left - 1,
                                           std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
        continue;
      }
      const int64_t begin = (ranges - left) * grain;
      (*body)(begin, std::min(count, begin + grain), worker);
      Finish();
      left = unclaimed.load(std::memory_order_acquire);
    }
  }

  // The caller may return, and its next region may begin, as soon as the
  // count reaches 0: nothing of this region is touched after it.
  void Finish() {
    if (unfinished.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
        caller_sleeps.load(std::memory_order_seq_cst)) {
      MutexLock lock(mu);
      done.NotifyOne();
    }
  }

  void Run(int worker) {
    const auto has_work = [this] {
      return unclaimed.load(std::memory_order_relaxed) > 0;
    };
    for (;;) {
      if (!SpinUntil(has_work)) {
        MutexLock lock(mu);
        // Announced before the last look: either the caller sees a sleeper
        // and notifies, or this look sees the caller's work.
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        while (!stop && unclaimed.load(std::memory_order_seq_cst) == 0) {
          wake.Wait(mu);
        }
        sleepers.fetch_sub(1, std::memory_order_relaxed);
        if (stop) return;
      }
      Work(worker);
    }
  }

  void WakeSleepers() {
    if (sleepers.load(std::memory_order_seq_cst) == 0) return;
    MutexLock lock(mu);
    wake.NotifyAll();
  }

  void AwaitFinished() {
    const auto finished = [this] {
      return unfinished.load(std::memory_order_seq_cst) == 0;
    };
    if (SpinUntil(finished)) return;
    MutexLock lock(mu);
    caller_sleeps.store(true, std::memory_order_seq_cst);
    while (!finished()) done.Wait(mu);
    caller_sleeps.store(false, std::memory_order_relaxed);
  }

  // The job; see above for when it may be read.
  const Body* body = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  int64_t ranges = 0;

  // On lines of their own: every worker polls the first while idle.
  alignas(64) std::atomic<int64_t> unclaimed{0};
  alignas(64) std::atomic<int64_t> unfinished{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::vector<std::thread> workers;
  Mutex mu;
  CondVar wake;  // there is work, or `stop`
  CondVar done;  // unfinished == 0
  bool stop ABSL_GUARDED_BY(mu) = false;
};

ThreadPool::ThreadPool(int threads) {
  SPARSESERVE_CHECK(threads >= 1);
  state_ = std::make_unique<State>(threads);
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::threads() const {
  return static_cast<int>(state_->workers.size()) + 1;
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain, Body body) {
  SPARSESERVE_CHECK(grain >= 1);
  if (count <= 0) return;
  const int64_t ranges = (count + grain - 1) / grain;
  if (ranges == 1 || state_->workers.empty()) {
    for (int64_t begin = 0; begin < count; begin += grain) {
      body(begin, std::min(count, begin + grain), 0);
    }
    return;
  }
  State& state = *state_;
  state.body = &body;
  state.count = count;
  state.grain = grain;
  state.ranges = ranges;
  state.unfinished.store(ranges, std::memory_order_relaxed);
  state.unclaimed.store(ranges, std::memory_order_seq_cst);
  state.WakeSleepers();
  state.Work(0);
  state.AwaitFinished();
}

}  // namespace sparseserve
