#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "client/load/load_progress.h"
#include "client/load/load_recorder.h"
#include "client/load/load_run.h"
#include "client/load/prompt_source.h"
#include "client/load/request_outcome.h"
#include "client/load/request_plan.h"

namespace sparseserve {

// Carries a LoadRun out against a server: sends what is due, cancels what is to
// be cancelled, records what ended. One thread sends and records; the client's
// only takes times and hands ended requests over.
class LoadDriver {
 public:
  struct Options {
    // What all requests have in common: model, sampling, attention.
    v1::GenerateOptions request;
    // Headers, waiting for the server; its stop ends the run.
    CallOptions call;
    // How long requests in flight may go on once all are sent.
    absl::Duration drain_timeout = absl::InfiniteDuration();
    absl::Duration progress_interval = absl::Seconds(1);
  };
  struct Result {
    absl::Duration elapsed;
    bool interrupted = false;
  };
  using OnProgress = absl::FunctionRef<void(const LoadProgress&)>;
  using OnEnded = absl::FunctionRef<void(const PlannedRequest&,
                                         const RequestOutcome&, Verdict)>;

  // Borrows all; a driver serves one run.
  LoadDriver(Client& client, const RequestPlan& plan,
             const PromptSource& prompts, Options options);

  // Runs until every request ended.
  Result Run(LoadRun& run, LoadRecorder& recorder, OnProgress on_progress,
             OnEnded on_ended);

 private:
  // A request that was sent. The calling thread has `stop`, the client's
  // `outcome` until the end is handed over.
  struct InFlight {
    RequestOutcome outcome;
    ClientStop stop;
    std::stop_source source;
  };
  using Ended = std::pair<std::shared_ptr<InFlight>, absl::Status>;

  absl::Duration Now() const;
  void Send(const PlannedRequest& request);
  v1::GenerateOptions RequestFor(const PlannedRequest& request) const;
  void HandOver(std::shared_ptr<InFlight> request, absl::Status status);
  void Interrupt();
  // Waits until `time`, an end or a stop; returns what ended.
  std::vector<Ended> WaitUntil(absl::Duration time);

  Client& client_;
  const RequestPlan& plan_;
  const PromptSource& prompts_;
  const Options options_;
  const std::chrono::steady_clock::time_point start_;
  std::map<int64_t, std::shared_ptr<InFlight>> in_flight_;

  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<Ended> ended_;  // under mu_
};

}  // namespace sparseserve
