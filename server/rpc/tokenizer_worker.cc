#include "server/rpc/tokenizer_worker.h"

#include <utility>

#include "engine/base/check.h"

namespace sparseserve {

TokenizerWorker::TokenizerWorker(Options options) : options_(options) {
  SPARSESERVE_CHECK(options.max_jobs >= 1 && options.max_bytes >= 1);
  thread_ = std::thread([this] { Run(); });
}

TokenizerWorker::~TokenizerWorker() { Stop(); }

void TokenizerWorker::Stop() {
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  changed_.NotifyOne();
  if (thread_.joinable()) thread_.join();
}

bool TokenizerWorker::Submit(size_t bytes, std::function<void()> job) {
  {
    MutexLock lock(mu_);
    const bool fits = static_cast<int>(jobs_.size()) < options_.max_jobs &&
                      bytes_ + bytes <= options_.max_bytes;
    if (stop_ || (!fits && !jobs_.empty())) return false;
    bytes_ += bytes;
    jobs_.push_back({bytes, std::move(job)});
  }
  changed_.NotifyOne();
  return true;
}

int TokenizerWorker::waiting() const {
  MutexLock lock(mu_);
  return static_cast<int>(jobs_.size());
}

void TokenizerWorker::Run() {
  while (true) {
    Job job;
    {
      MutexLock lock(mu_);
      while (jobs_.empty() && !stop_) changed_.Wait(mu_);
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      bytes_ -= job.bytes;
    }
    job.run();
  }
}

}  // namespace sparseserve
