#include "client/load/load_driver.h"

#include <algorithm>

namespace sparseserve {
namespace {

// Requests that are sent before ends, cancels and stops are looked at again:
// one that is behind has always more to send.
constexpr int kSendsInTurn = 64;

}  // namespace

LoadDriver::LoadDriver(Client& client, const RequestPlan& plan,
                       const PromptSource& prompts, Options options)
    : client_(client),
      plan_(plan),
      prompts_(prompts),
      options_(std::move(options)),
      start_(std::chrono::steady_clock::now()) {}

absl::Duration LoadDriver::Now() const {
  return absl::FromChrono(std::chrono::steady_clock::now() - start_);
}

v1::GenerateOptions LoadDriver::RequestFor(
    const PlannedRequest& request) const {
  const LoadClass& asks = plan_.classes()[request.load_class];
  v1::GenerateOptions options = options_.request;
  const std::vector<int32_t> prompt = prompts_.Prompt(request);
  options.mutable_token_ids()->mutable_ids()->Add(prompt.begin(), prompt.end());
  options.mutable_stop()->set_max_output_tokens(request.output_tokens);
  if (auto target = asks.Target(); target.has_value()) {
    *options.mutable_latency_target() = *std::move(target);
  }
  options.set_priority(asks.priority);
  if (!asks.plan.empty()) options.mutable_attention()->set_plan(asks.plan);
  return options;
}

void LoadDriver::Send(const PlannedRequest& planned) {
  auto request = std::make_shared<InFlight>();
  const LoadClass& asks = plan_.classes()[planned.load_class];
  const v1::GenerateOptions options = RequestFor(planned);
  CallOptions call = options_.call;
  call.stop = request->source.get_token();
  RequestOutcome& outcome = request->outcome;
  outcome.index = planned.index;
  outcome.sent = Now();
  if (asks.deadline < absl::InfiniteDuration()) {
    // Of the request, not of the call: lateness of the generator is part of it.
    call.timeout = std::max(asks.deadline - (outcome.sent - planned.intended),
                            absl::Milliseconds(1));
  }
  in_flight_.emplace(planned.index, request);
  const int prompt_tokens = planned.prompt_tokens;
  const absl::Status started = client_.StartGenerate(
      options,
      {.on_output =
           [this, request](const v1::OutputDelta& output) {
             if (output.token_ids_size() == 0) return;
             AddTokens(Now(), output.token_ids_size(), request->outcome);
           },
       .on_end =
           [this, request,
            prompt_tokens](absl::StatusOr<v1::GenerationReport> report) {
             RequestOutcome& ended = request->outcome;
             ended.ended = Now();
             if (report.ok()) {
               ended.prompt_tokens = report->usage().prompt_tokens();
               ended.cached_prompt_tokens =
                   report->usage().cached_prompt_tokens();
             } else if (ended.first_token < absl::InfiniteDuration()) {
               ended.prompt_tokens = prompt_tokens;
             }
             HandOver(request, report.status());
           }},
      call);
  if (!started.ok()) {
    outcome.ended = Now();
    HandOver(request, started);
  }
}

void LoadDriver::HandOver(std::shared_ptr<InFlight> request,
                          absl::Status status) {
  // Told under the lock: the driver may be gone once it is free.
  const std::lock_guard lock(mu_);
  ended_.emplace_back(std::move(request), std::move(status));
  changed_.notify_one();
}

void LoadDriver::Interrupt() {
  for (const auto& [index, request] : in_flight_) {
    if (!request->stop.cancelled) request->stop.interrupted = true;
    request->source.request_stop();
  }
}

std::vector<LoadDriver::Ended> LoadDriver::WaitUntil(absl::Duration time) {
  const auto until = start_ + absl::ToChronoNanoseconds(time);
  std::unique_lock lock(mu_);
  if (ended_.empty()) changed_.wait_until(lock, until);
  return std::exchange(ended_, {});
}

LoadDriver::Result LoadDriver::Run(LoadRun& run, LoadRecorder& recorder,
                                   OnProgress on_progress, OnEnded on_ended) {
  // Wakes the wait below, which is also bounded: a stop between the check and
  // the wait is seen at the next turn.
  const std::stop_callback wake(options_.call.stop, [this] {
    const std::lock_guard lock(mu_);
    changed_.notify_one();
  });
  Result result;
  bool interrupted = false;
  absl::Duration next_progress = options_.progress_interval;
  absl::Duration give_up = absl::InfiniteDuration();
  while (true) {
    absl::Duration now = Now();
    if (options_.call.stop.stop_requested() && !result.interrupted) {
      result.interrupted = true;
      run.Stop();
    }
    for (int sends = 0; sends < kSendsInTurn; ++sends) {
      const auto request = run.TakeDue(now);
      if (!request.has_value()) break;
      Send(*request);
      now = Now();
    }
    for (const int64_t index : run.TakeCancels(now)) {
      InFlight& request = *in_flight_.at(index);
      request.stop.cancelled = true;
      request.source.request_stop();
    }
    const bool all_sent = run.AllSent(now);
    if (all_sent && run.in_flight() == 0) break;
    if (all_sent && give_up == absl::InfiniteDuration()) {
      give_up = now + options_.drain_timeout;
    }
    if ((result.interrupted || now >= give_up) && !interrupted) {
      interrupted = true;
      Interrupt();
    }
    if (now >= next_progress) {
      on_progress({now, run.sent(), run.in_flight(), recorder});
      next_progress = now + options_.progress_interval;
    }
    absl::Duration until = std::min(run.NextTime(now), next_progress);
    if (!interrupted) until = std::min(until, give_up);
    until = std::min(until, now + absl::Milliseconds(200));
    for (auto& [request, status] : WaitUntil(until)) {
      SetEnd(status, request->stop, request->outcome);
      const RequestOutcome& outcome = request->outcome;
      const PlannedRequest planned = run.Ended(outcome.index, outcome.ended);
      on_ended(planned, outcome, recorder.Record(planned, outcome));
      in_flight_.erase(outcome.index);
    }
  }
  result.elapsed = Now();
  return result;
}

}  // namespace sparseserve
