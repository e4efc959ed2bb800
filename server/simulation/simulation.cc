#include "server/simulation/simulation.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/scheduling/token_sink.h"
#include "server/simulation/random_draws.h"

namespace sparseserve {
namespace {

constexpr int kMostReplicas = 64;
constexpr int64_t kEventsAReport = 4096;

// Takes whatever comes: what counts is in the sequences.
class DiscardingSink : public TokenSink {
 public:
  bool Emit(OutputPiece) override { return true; }
  void Finish(const FinishReport&) override {}
  void Fail(const Failure&) override {}
};

absl::Status CheckOptions(const SimulationOptions& options) {
  if (options.replicas < 1 || options.replicas > kMostReplicas) {
    return absl::InvalidArgumentError(StrCat("replicas is ", options.replicas,
                                             ", must be from 1 to ",
                                             kMostReplicas));
  }
  if (!(options.step_noise >= 0 && options.step_noise <= 1)) {
    return absl::InvalidArgumentError(
        StrCat("step noise is ", options.step_noise, ", must be from 0 to 1"));
  }
  if (options.requests.empty()) {
    return absl::InvalidArgumentError("there are no requests");
  }
  return absl::OkStatus();
}

class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options)
      : options_(options), class_draw_(options.seed) {
    for (const SimulatedClass& asked : options.classes) {
      outcomes_.emplace_back(asked);
      shares_ += asked.share;
    }
  }

  absl::Status Start() {
    ASSIGN_OR_RETURN(picker_, MakePicker(options_.picker, options_.orca));
    for (int i = 0; i < options_.replicas; ++i) {
      Replica::Options options;
      options.scheduler = options_.scheduler;
      options.queue = options_.queue;
      options.device = {.costs = options_.costs,
                        .noise = options_.step_noise,
                        .seed = options_.seed * kMostReplicas + i,
                        .vocab_size = PlaceholderTokenizer::kVocabSize};
      ASSIGN_OR_RETURN(auto replica,
                       Replica::Create(options, [this](const Sequence& ended) {
                         Ended(ended);
                       }));
      replicas_.push_back(std::move(replica));
    }
    return absl::OkStatus();
  }

  // One arrival or end of a step, whichever comes first; false if there is
  // none.
  bool Advance() {
    Replica* const first =
        absl::c_min_element(replicas_, [](const auto& a, const auto& b) {
          return a->step_end() < b->step_end();
        })->get();
    const absl::Time arrival = next_ < options_.requests.size()
                                   ? begin_ + options_.requests[next_].arrival
                                   : absl::InfiniteFuture();
    if (first->step_end() <= arrival) {
      if (first->step_end() == absl::InfiniteFuture()) return false;
      now_ = first->step_end();
      first->EndStep();
    } else {
      now_ = arrival;
      Arrive(options_.requests[next_++]);
    }
    return true;
  }

  SimulationProgress progress() const {
    return {now_ - begin_, static_cast<int64_t>(next_), ended_};
  }

  SimulationReport Report() const {
    SimulationReport report = {.picker = options_.picker,
                               .seed = options_.seed};
    report.elapsed = last_end_ - begin_ - options_.requests.front().arrival;
    report.classes = outcomes_;
    for (const auto& replica : replicas_) {
      report.replicas.push_back(replica->work());
    }
    return report;
  }

 private:
  int DrawClass() {
    double left = DrawUniform(class_draw_) * shares_;
    for (size_t i = 0; i + 1 < options_.classes.size(); ++i) {
      left -= options_.classes[i].share;
      if (left < 0) return static_cast<int>(i);
    }
    return static_cast<int>(options_.classes.size()) - 1;
  }

  // Prompts of a class share their prefix, and nothing else.
  std::vector<TokenId> DrawPrompt(int drawn, int tokens) const {
    std::vector<TokenId> prompt(tokens);
    const int prefix = std::min(options_.classes[drawn].prefix_tokens, tokens);
    std::minstd_rand shared(static_cast<uint32_t>(drawn) + 1);
    std::minstd_rand own(
        static_cast<uint32_t>(options_.seed * 1'000'003 + next_ + 1'000));
    for (int i = 0; i < tokens; ++i) {
      prompt[i] = static_cast<TokenId>((i < prefix ? shared() : own()) %
                                       PlaceholderTokenizer::kVocabSize);
    }
    return prompt;
  }

  std::unique_ptr<Request> MakeRequest(int drawn, const TracedRequest& traced) {
    const SimulatedClass& asked = options_.classes[drawn];
    auto request = std::make_unique<Request>();
    request->id = StrCat(drawn);  // what is known of it when it has ended
    request->arrival = now_;
    request->deadline =
        now_ + std::min(asked.deadline, options_.default_deadline);
    request->prompt = DrawPrompt(drawn, traced.prompt_tokens);
    request->sampling.temperature = 0;
    request->max_output_tokens = traced.output_tokens;
    request->ignore_eos = true;
    request->target = asked.target;
    request->priority = asked.priority;
    request->sink = sink_;
    return request;
  }

  void Arrive(const TracedRequest& traced) {
    const int drawn = DrawClass();
    std::vector<ReplicaLoad> loads;
    for (const auto& replica : replicas_) {
      loads.push_back({replica->waiting() + replica->running(),
                       replica->utilization(), replica->work().ended});
    }
    Replica& replica = *replicas_[picker_->Pick(loads, now_)];
    last_end_ = std::max(last_end_, now_);
    if (int64_t{traced.prompt_tokens} + traced.output_tokens >
        replica.max_request_tokens()) {
      outcomes_[drawn].Refused("too_long");
      return;
    }
    const Refusal refusal = replica.Push(MakeRequest(drawn, traced), now_);
    if (refusal != Refusal::kNone) outcomes_[drawn].Refused("queue_full");
  }

  void Ended(const Sequence& sequence) {
    int drawn = 0;
    SPARSESERVE_CHECK(absl::SimpleAtoi(sequence.request().id, &drawn));
    outcomes_[drawn].Ended(sequence);
    last_end_ = std::max(last_end_, now_);
    ++ended_;
  }

  const SimulationOptions& options_;
  const absl::Time begin_ = absl::UnixEpoch();
  const std::shared_ptr<TokenSink> sink_ = std::make_shared<DiscardingSink>();
  std::mt19937_64 class_draw_;
  double shares_ = 0;
  std::unique_ptr<Picker> picker_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<ClassOutcome> outcomes_;
  absl::Time now_ = begin_;
  absl::Time last_end_ = begin_;
  size_t next_ = 0;  // request
  int64_t ended_ = 0;
};

}  // namespace

absl::StatusOr<SimulationReport> Simulate(
    const SimulationOptions& options,
    const std::function<void(const SimulationProgress&)>& on_progress) {
  RETURN_IF_ERROR(CheckOptions(options));
  Simulation simulation(options);
  RETURN_IF_ERROR(simulation.Start());
  for (int64_t events = 1; simulation.Advance(); ++events) {
    if (on_progress && events % kEventsAReport == 0) {
      on_progress(simulation.progress());
    }
  }
  return simulation.Report();
}

}  // namespace sparseserve
