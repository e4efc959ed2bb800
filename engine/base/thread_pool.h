#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace sparseserve {

// The CPU workers. Passed in, never global. One thread at a time may call
// ParallelFor(); it takes part as worker 0. Between calls of one step workers
// spin briefly, then sleep, so an idle pool costs nothing.
class ThreadPool {
 public:
  // `threads` >= 1 counts the caller.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(begin, end, worker) over disjoint ranges that cover
  // [0, count), each at most `grain` long, handed out in ascending order to
  // whichever worker is free, 0 <= worker < threads(). Returns when all are
  // done. What each range computes must not depend on the worker.
  void ParallelFor(
      int64_t count, int64_t grain,
      absl::FunctionRef<void(int64_t begin, int64_t end, int worker)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sparseserve
