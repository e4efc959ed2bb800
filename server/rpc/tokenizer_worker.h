#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>

#include "engine/base/mutex.h"

namespace sparseserve {

// One thread that tokenises, so that gRPC's few threads never wait for a long
// text. First come, first served; bounded in jobs and in bytes of text, so that
// hostile texts delay no other for long. Thread-safe.
class TokenizerWorker {
 public:
  struct Options {  // each at least 1
    int max_jobs = 256;
    size_t max_bytes = size_t{8} << 20;
  };
  explicit TokenizerWorker(Options options);
  ~TokenizerWorker();  // Stop()s

  // Never blocks. Runs `job` once, on the worker's thread, iff it returns true;
  // false: too much waits. `bytes` is the text's size; where nothing waits, a
  // job is taken whatever its size. A job whose caller has left should find
  // that out and return.
  bool Submit(size_t bytes, std::function<void()> job);

  // Runs what waits and ends the thread; Submit() refuses from now on. main's
  // thread, while all that jobs use still lives. Idempotent.
  void Stop();

  int waiting() const;

 private:
  struct Job {
    size_t bytes;
    std::function<void()> run;
  };

  void Run();

  const Options options_;
  mutable Mutex mu_;
  CondVar changed_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mu_);
  size_t bytes_ ABSL_GUARDED_BY(mu_) = 0;  // of jobs_
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace sparseserve
