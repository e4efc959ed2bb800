// A request's tokens must not depend on who else is served: on how its prompt
// is cut, on whose pages it begins behind, on whether it is stopped.

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "server/policy/pattern_decision.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/sequence.h"
#include "tests/integration/engine_sequence.h"
#include "tests/integration/golden_logits.h"
#include "tests/testing/default_model.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

using testing::RecordingSink;

constexpr int kRequests = 10;
constexpr int kOutputTokens = 140;

// What serving did besides running each request on its own.
struct Disturbance {
  int most_slices = 0;  // of a step
  int cut_prompts = 0;  // chunks that did not end their prompt
  int stops = 0;
  int64_t hit_tokens = 0;
};

struct Served {
  std::vector<std::vector<TokenId>> outputs;  // by request
  // How far the likeliest token was ahead of the next one, in nats.
  std::vector<std::vector<float>> margins;
  std::vector<bool> reproducible;
  Disturbance disturbance;
};

class SchedulingInvarianceTest : public ::testing::Test {
 protected:
  void Load(const std::string& compute_dtype,
            const PatternSpec& pattern = DensePattern()) {
    auto golden = ReadGoldenLogits("tests/golden/logits");
    ASSERT_TRUE(golden.ok()) << golden.status();
    text_ = golden->prose[0].tokens;
    auto engine = LoadEngine(testing::DefaultModelPath(), compute_dtype);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    attention_ = Decide("", pattern, engine_->info());
  }

  // Every other one begins with the same three pages; a third of them draws.
  std::unique_ptr<Request> MakeRequest(int i) const {
    auto request = std::make_unique<Request>();
    request->prompt = {text_.begin(), text_.begin() + (i % 2 == 0 ? 200 : 0)};
    const auto own = text_.begin() + 300 + ptrdiff_t{97} * i;
    request->prompt.insert(request->prompt.end(), own, own + 20 + 19 * i);
    request->max_output_tokens = kOutputTokens;
    request->attention = attention_;
    request->ignore_eos = true;
    request->sampling.temperature = i % 3 == 2 ? 0.8f : 0;
    request->sampling.seed = 1000 + i;
    request->sampling.logprobs = 2;
    request->seed_was_given = true;
    request->sink = std::make_shared<RecordingSink>();
    return request;
  }

  // Serves the requests, another of which arrives every few steps.
  Served Serve(const std::vector<int>& requests,
               const Scheduler::Options& options) {
    const auto scheduler = *Scheduler::Create(options, engine_->tokenizer());
    Served served;
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    absl::Time now = absl::FromUnixSeconds(1000);
    for (int step = 0; sinks.size() < requests.size() || !scheduler->idle();
         ++step) {
      if (step % 3 == 0 && sinks.size() < requests.size()) {
        std::vector<std::unique_ptr<Request>> arrived;
        arrived.push_back(MakeRequest(requests[sinks.size()]));
        arrived[0]->arrival = now;
        sinks.push_back(
            std::static_pointer_cast<RecordingSink>(arrived[0]->sink));
        scheduler->Admit(std::move(arrived), now);
      }
      Step(*scheduler, now, served.disturbance);
      now += absl::Milliseconds(20);
      if (HasFailure()) return served;
    }
    served.disturbance.hit_tokens = scheduler->TakePageCounts().hit_tokens;
    for (const auto& sink : sinks) {
      served.outputs.push_back(sink->token_ids());
      served.margins.push_back(Margins(*sink));
      served.reproducible.push_back(sink->report()->reproducible);
    }
    return served;
  }

  // Serves ten at once: a page of prompt a step, and pages for about three.
  Served ServeTogether(bool keeps_prefixes = true) {
    std::vector<int> all;
    for (int i = 0; i < kRequests; ++i) all.push_back(i);
    Served together = Serve(all, {.max_step_tokens = 71,
                                  .max_running_sequences = 8,
                                  .context_tokens = 1024,
                                  .kv_pages = 16,
                                  .keeps_prefixes = keeps_prefixes});
    const Disturbance& disturbance = together.disturbance;
    std::cout << disturbance.stops << " stops, " << disturbance.hit_tokens
              << " tokens hit, " << disturbance.cut_prompts
              << " chunks before a prompt's last, up to "
              << disturbance.most_slices << " at once\n";
    EXPECT_GE(disturbance.stops, keeps_prefixes ? 2 : 1);
    EXPECT_GE(disturbance.hit_tokens, keeps_prefixes ? 3 * 192 : 0);
    EXPECT_GT(disturbance.cut_prompts, kRequests);
    EXPECT_GE(disturbance.most_slices, 3);
    return together;
  }

  Served ServeAlone(int i) {
    Served alone = Serve({i}, {.max_step_tokens = 512,
                               .max_running_sequences = 1,
                               .context_tokens = 1024,
                               .kv_pages = 24,
                               .keeps_prefixes = false});
    EXPECT_EQ(alone.disturbance.cut_prompts, 0);
    return alone;
  }

  void ExpectTheSameTokens(bool keeps_prefixes = true) {
    const Served together = ServeTogether(keeps_prefixes);
    for (int i = 0; i < kRequests && !HasFailure(); ++i) {
      const Served alone = ServeAlone(i);
      EXPECT_EQ(alone.outputs[0], together.outputs[i]) << i;
      EXPECT_EQ(together.outputs[i].size(), size_t{kOutputTokens});
      EXPECT_TRUE(together.reproducible[i]) << i;
    }
  }

  std::unique_ptr<Engine> engine_;

 private:
  static std::vector<float> Margins(const RecordingSink& sink) {
    std::vector<float> margins;
    for (const OutputPiece& piece : sink.pieces()) {
      for (const auto& token : piece.logprobs) {
        margins.push_back(token.alternatives.at(0).logprob -
                          token.alternatives.at(1).logprob);
      }
    }
    return margins;
  }

  void Step(Scheduler& scheduler, absl::Time now, Disturbance& disturbance) {
    const StepPlan plan = scheduler.PlanStep(now);
    disturbance.stops += static_cast<int>(scheduler.preempted_tokens().size());
    disturbance.most_slices =
        std::max(disturbance.most_slices, static_cast<int>(plan.slices.size()));
    for (const StepSlice& slice : plan.slices) {
      disturbance.cut_prompts +=
          slice.phase == Phase::kPrefill && !slice.wants_token;
    }
    if (plan.slices.empty()) return;
    const absl::StatusOr<StepResult> result = RunStep(*engine_, plan);
    ASSERT_TRUE(result.ok()) << result.status();
    for (Scheduler::Output& output : scheduler.Commit(*result, now)) {
      output.sequence->request().sink->Emit(std::move(output.piece));
    }
    for (const auto& sequence : scheduler.TakeEnded()) {
      ASSERT_EQ(sequence->ending(), Ending::kFinished);
      sequence->request().sink->Finish(sequence->Report());
    }
    const absl::Status invariants = scheduler.CheckInvariants();
    ASSERT_TRUE(invariants.ok()) << invariants;
  }

  std::vector<TokenId> text_;
  PatternDecision attention_;
};

TEST_F(SchedulingInvarianceTest, ExactModeGivesTheSameTokensHoweverItIsServed) {
  ASSERT_NO_FATAL_FAILURE(Load("f32"));
  ExpectTheSameTokens();
}

// What a block sees follows from the prompt and where it ends, not from which
// chunk it is in or whether that draws: who is stopped runs all of it again.
TEST_F(SchedulingInvarianceTest, SparsePromptsDoToo) {
  ASSERT_NO_FATAL_FAILURE(Load("f32", XAttentionPattern{.threshold = 0.5f}));
  ExpectTheSameTokens(/*keeps_prefixes=*/false);
}

// Where two tokens are nearly as likely rounding may decide; what follows then
// has another beginning.
TEST_F(SchedulingInvarianceTest, DefaultModeDiffersAtMostWhereTokensAreClose) {
  constexpr float kWideMargin = 0.5f;
  ASSERT_NO_FATAL_FAILURE(Load("auto"));
  const Served together = ServeTogether();
  int same_tokens = 0;
  int greedy = 0;
  for (int i = 0; i < kRequests && !HasFailure(); ++i) {
    if (i % 3 == 2) continue;  // draws
    const Served alone = ServeAlone(i);
    const auto [ours, others] =
        std::mismatch(alone.outputs[0].begin(), alone.outputs[0].end(),
                      together.outputs[i].begin(), together.outputs[i].end());
    const auto same = ours - alone.outputs[0].begin();
    ++greedy;
    same_tokens += static_cast<int>(same);
    if (same == kOutputTokens) continue;
    EXPECT_LT(alone.margins[0].at(same), kWideMargin) << i << " after " << same;
  }
  std::cout << same_tokens << " of " << greedy * kOutputTokens
            << " tokens alike\n";
  EXPECT_GT(same_tokens, greedy * kOutputTokens / 2);
}

}  // namespace
}  // namespace sparseserve
