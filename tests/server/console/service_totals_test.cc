#include "server/console/service_totals.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/console/service_state.h"
#include "server/metrics/metrics.h"

namespace sparseserve {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::Pair;

Metrics::Options SmallModel() {
  Metrics::Options options;
  options.model_name = "models/small";
  options.version = "1.2.3";
  options.device = "cpu";
  options.dtype = "Q4_1";
  options.page_tokens = 64;
  return options;
}

int Kind(absl::string_view name) {
  for (const PatternSpec& pattern : EveryPattern()) {
    if (PatternName(pattern) == std::string_view(name.data(), name.size())) {
      return static_cast<int>(pattern.index());
    }
  }
  ADD_FAILURE() << "no pattern " << name;
  return 0;
}

RequestSample Request() {
  RequestSample sample;
  sample.outcome = FinishOutcome::kLength;
  sample.prompt_tokens = 100;
  sample.output_tokens = 11;
  sample.queue = absl::Milliseconds(2);
  sample.prefill = absl::Milliseconds(30);
  sample.decode = absl::Milliseconds(100);
  sample.time_to_first_token = absl::Milliseconds(45);
  sample.time_per_output_token = absl::Milliseconds(9);
  sample.total = absl::Milliseconds(145);
  sample.prefill_blocks = {.computed = 10, .allowed = 40};
  return sample;
}

StepSample Step() {
  StepSample sample;
  sample.duration = absl::Milliseconds(30);
  sample.times = {.embed = .001,
                  .selection = .002,
                  .attention = .01,
                  .mlp = .015,
                  .sampling = .0005};
  sample.prefill_requests = 1;
  sample.prefill_tokens = 100;
  sample.decode_requests = 3;
  sample.decode_tokens = 3;
  sample.generated_tokens = 4;
  sample.preemptions = 1;
  sample.recomputed_tokens = 17;
  sample.prefill_blocks = {.computed = 10, .allowed = 40};
  sample.decode_blocks = {.computed = 5, .allowed = 5};
  sample.heads[0][Kind("xattention")] = 80;
  sample.heads[0][Kind("dense")] = 10;
  sample.heads[1][Kind("dense")] = 270;
  return sample;
}

void Fill(Metrics& metrics) {
  metrics.Step(Step());
  metrics.Finished(Request());
  RequestSample fell_back = Request();
  fell_back.prompt_tokens = 5000;  // another class of prompts
  fell_back.fallback = FallbackReason::kLowRecall;
  metrics.Finished(fell_back);
  metrics.Answered(Operation::kTokenize, FinishOutcome::kStop,
                   absl::Seconds(100));
  metrics.Rejected(RejectReason::kQueueFull);
  metrics.Cancelled(CancelStage::kDecode, CancelCause::kClient);
  metrics.Cancelled(CancelStage::kQueue, CancelCause::kClient);
  metrics.TargetOutcome(TargetKind::kTimeToFirstToken, true);
  metrics.TargetOutcome(TargetKind::kTimeToFirstToken, true);
  metrics.TargetOutcome(TargetKind::kTotal, false);
  metrics.Recall(Kind("xattention"), {.96f, .96f, .2f});
  metrics.PrefixCache(
      {.query_tokens = 100, .hit_tokens = 64, .evicted_pages = 2});
}

TEST(ServiceTotalsTest, TimesAreThoseOfTheHistograms) {
  Metrics metrics(SmallModel());
  Fill(metrics);
  const ServiceTotals totals = ReadTotals(metrics.Snapshot());
  EXPECT_EQ(totals.time_to_first_token.Count(), 2);
  EXPECT_NEAR(totals.time_to_first_token.sum, .09, 1e-12);
  // Both are in the bucket from 40 to 60 ms.
  EXPECT_DOUBLE_EQ(totals.time_to_first_token.Quantile(.5), .05);
  EXPECT_EQ(totals.time_per_output_token.Count(), 2);
  EXPECT_EQ(totals.queue_time.Count(), 2);
  // Tokenizing waits for no token.
  EXPECT_EQ(totals.total_time.Count(), 2);
  EXPECT_NEAR(totals.total_time.sum, .29, 1e-12);
}

TEST(ServiceTotalsTest, CountsAreThoseOfTheCounters) {
  Metrics metrics(SmallModel());
  Fill(metrics);
  const ServiceTotals totals = ReadTotals(metrics.Snapshot());
  EXPECT_EQ(totals.finished.at("length"), 2);
  EXPECT_EQ(totals.finished.at("stop"), 1);
  EXPECT_EQ(totals.rejected.at("queue_full"), 1);
  EXPECT_EQ(totals.rejected.size(), 8u);
  EXPECT_EQ(totals.cancelled.at("client"), 2);
  EXPECT_EQ(totals.targets.at("time_to_first_token").met, 2);
  EXPECT_EQ(totals.targets.at("time_to_first_token").missed, 0);
  EXPECT_EQ(totals.targets.at("total").missed, 1);
  EXPECT_EQ(totals.generation_tokens, 4);
  EXPECT_THAT(totals.prompt_tokens,
              ElementsAre(Pair("computed", 100), Pair("prefix_cache", 64)));
  EXPECT_THAT(totals.wasted_tokens,
              ElementsAre(Pair("cancelled", 0), Pair("preempted", 17)));
  EXPECT_EQ(totals.prefix_query_tokens, 100);
  EXPECT_EQ(totals.prefix_hit_tokens, 64);
  EXPECT_EQ(totals.evicted_pages, 2);
  EXPECT_EQ(totals.preemptions, 1);
}

TEST(ServiceTotalsTest, AttentionIsByPhaseAndPattern) {
  Metrics metrics(SmallModel());
  Fill(metrics);
  const ServiceTotals totals = ReadTotals(metrics.Snapshot());
  const auto& [prompts, output] = totals.phases;
  EXPECT_EQ(prompts.heads.at("xattention"), 80);
  EXPECT_EQ(prompts.heads.at("dense"), 10);
  EXPECT_EQ(output.heads.at("dense"), 270);
  EXPECT_EQ(prompts.computed_blocks, 10);
  EXPECT_EQ(prompts.skipped_blocks, 30);
  EXPECT_EQ(output.skipped_blocks, 0);
  EXPECT_EQ(prompts.fallbacks.at("low_recall"), 1);
  EXPECT_EQ(prompts.step_seconds.Count(), 1);
  EXPECT_EQ(output.step_seconds.Count(), 0);
  EXPECT_EQ(prompts.batch_tokens.sum, 100);
  EXPECT_EQ(output.batch_requests.sum, 3);
  EXPECT_DOUBLE_EQ(totals.stage_seconds.at("mlp"), .015);
  ASSERT_TRUE(totals.recall.contains("xattention"));
  EXPECT_EQ(totals.recall.at("xattention").Count(), 3);
}

TEST(ServiceTotalsTest, PlansAreThoseThatThereAreSeriesOf) {
  Metrics metrics(SmallModel());
  MetricsSnapshot snapshot = metrics.Snapshot();
  const auto add =
      [&snapshot](const std::string& family, double value,
                  std::vector<std::pair<std::string, std::string>> labels) {
        snapshot.families[family].push_back({std::move(labels), value, {}});
      };
  snapshot.families.erase("sparseserve_plan_requests_total");
  snapshot.families.erase("sparseserve_plan_targets_total");
  snapshot.families.erase("sparseserve_guard_demotions_total");
  EXPECT_TRUE(ReadTotals(snapshot).plans.empty());
  add("sparseserve_plan_requests_total", 3,
      {{"phase", "prefill"}, {"plan", "fast"}});
  add("sparseserve_plan_requests_total", 2,
      {{"phase", "decode"}, {"plan", "fast"}});
  add("sparseserve_plan_targets_total", 4,
      {{"plan", "fast"}, {"prompt_class", "le_1k"}, {"outcome", "met"}});
  add("sparseserve_plan_targets_total", 1,
      {{"plan", "fast"}, {"prompt_class", "le_4k"}, {"outcome", "missed"}});
  add("sparseserve_guard_demotions_total", 1,
      {{"plan", "fast"}, {"cause", "recall"}});
  const ServiceTotals::Plan plan = ReadTotals(snapshot).plans.at("fast");
  EXPECT_THAT(plan.requests, ElementsAre(3, 2));
  EXPECT_EQ(plan.targets.met, 4);
  EXPECT_EQ(plan.targets.missed, 1);
  EXPECT_EQ(plan.demotions, 1);
}

TEST(ServiceTotalsTest, SinceIsWhatWasAdded) {
  Metrics metrics(SmallModel());
  Fill(metrics);
  const ServiceTotals before = ReadTotals(metrics.Snapshot());
  Fill(metrics);
  metrics.Rejected(RejectReason::kDraining);
  const ServiceTotals added = ReadTotals(metrics.Snapshot()).Since(before);
  const ServiceTotals& once = before;  // Fill() adds the same each time
  EXPECT_EQ(added.time_to_first_token.counts, once.time_to_first_token.counts);
  EXPECT_EQ(added.total_time.counts, once.total_time.counts);
  EXPECT_EQ(added.finished, once.finished);
  EXPECT_EQ(added.rejected.at("queue_full"), 1);
  EXPECT_EQ(added.rejected.at("draining"), 1);
  EXPECT_EQ(added.cancelled, once.cancelled);
  EXPECT_EQ(added.targets.at("time_to_first_token").met, 2);
  EXPECT_EQ(added.generation_tokens, 4);
  EXPECT_EQ(added.prompt_tokens, once.prompt_tokens);
  EXPECT_EQ(added.wasted_tokens, once.wasted_tokens);
  EXPECT_EQ(added.prefix_query_tokens, 100);
  EXPECT_EQ(added.prefix_hit_tokens, 64);
  EXPECT_EQ(added.evicted_pages, 2);
  EXPECT_EQ(added.preemptions, 1);
  EXPECT_EQ(added.recall.at("xattention").counts,
            once.recall.at("xattention").counts);
  EXPECT_NEAR(added.stage_seconds.at("mlp"), .015, 1e-12);
  for (int p = 0; p < kPhases; ++p) {
    EXPECT_EQ(added.phases[p].heads, once.phases[p].heads);
    EXPECT_EQ(added.phases[p].fallbacks, once.phases[p].fallbacks);
    EXPECT_EQ(added.phases[p].batch_tokens.counts,
              once.phases[p].batch_tokens.counts);
    EXPECT_EQ(added.phases[p].computed_blocks, once.phases[p].computed_blocks);
    EXPECT_EQ(added.phases[p].skipped_blocks, once.phases[p].skipped_blocks);
  }
}

TEST(ServiceStateTest, IsThatOfTheGauges) {
  Metrics metrics(SmallModel());
  metrics.SetRunning(5);
  metrics.SetWaiting(7);
  metrics.SetPages(/*used=*/30, /*free=*/60, /*cached=*/10);
  metrics.SetReady(true);
  metrics.SetDraining(true);
  metrics.AddBufferedBytes(123);
  metrics.SetMemory(
      {.mapped_file = 100, .weights = 200, .kv = 300, .activations = 400});
  const ServiceState state = ReadState(metrics.Snapshot());
  EXPECT_TRUE(state.ready);
  EXPECT_TRUE(state.draining);
  EXPECT_EQ(state.running, 5);
  EXPECT_EQ(state.waiting, 7);
  EXPECT_EQ(state.used_pages, 30);
  EXPECT_EQ(state.free_pages, 60);
  EXPECT_EQ(state.cached_pages, 10);
  EXPECT_DOUBLE_EQ(state.kv_usage, .3);
  EXPECT_EQ(state.buffered_bytes, 123);
  EXPECT_THAT(state.memory, Each(Field(&ServiceState::Memory::device, "cpu")));
  EXPECT_THAT(state.memory, ::testing::Contains(AllOf(
                                Field(&ServiceState::Memory::kind, "kv_used"),
                                Field(&ServiceState::Memory::bytes, 90))));
  EXPECT_GT(state.memory_limits.at("cpu"), 0);
  EXPECT_GT(state.resident_bytes, 0);
  EXPECT_GT(state.start_time_seconds, 1.577e9);
  EXPECT_EQ(state.build.at("version"), "1.2.3");
  EXPECT_EQ(state.model.at("dtype"), "Q4_1");
  EXPECT_EQ(state.cache.at("block_size"), "64");
}

}  // namespace
}  // namespace sparseserve
