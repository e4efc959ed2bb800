// Profiles of prompts through the engine's door.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "engine/profile/head_measures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using testing::ExactOptions;
using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::RandomTokens;
using testing::SliceStatus;
using testing::Stream;
using testing::TinyModel;

constexpr int kTokens = 200;

std::unique_ptr<Engine> MeasuringEngine() {
  Engine::Options options = ExactOptions();
  options.measure_recall = true;
  return MakeEngine(TinyModel(), options);
}

AttentionProfile MakeProfile(int tokens = kTokens) {
  const TinyModel model;
  return AttentionProfile({.layers = model.layers,
                           .heads = model.heads,
                           .kv_heads = model.kv_heads,
                           .tokens = tokens},
                          {.queries = {tokens - 1}, .top_keys = 3});
}

StepSlice SliceOf(const Stream& stream, int first, int count) {
  StepSlice slice;
  slice.tokens = absl::MakeConstSpan(stream.tokens).subspan(first, count);
  slice.first_position = first;
  slice.pages = stream.pages;
  return slice;
}

// Runs a prompt in chunks; what its profile says.
AttentionProfile Measure(Engine& engine, const AttentionChoice* choice,
                         int chunk) {
  const Stream stream(RandomTokens(kTokens, 1), /*first_page=*/0);
  AttentionProfile profile = MakeProfile();
  for (int first = 0; first < kTokens; first += chunk) {
    StepSlice slice = SliceOf(stream, first, std::min(chunk, kTokens - first));
    slice.attention = choice;
    slice.profile = &profile;
    EXPECT_EQ(SliceStatus(engine, slice), absl::OkStatus());
  }
  return profile;
}

TEST(EngineProfileTest, ChunksAddUpToTheWholePrompt) {
  const auto engine = MeasuringEngine();
  const AttentionProfile whole = Measure(*engine, nullptr, kTokens);
  const AttentionProfile cut = Measure(*engine, nullptr, 64);
  for (int head = 0; head < whole.shape().heads; ++head) {
    const HeadMeasures a = MeasuresOf(whole, 1, head);
    const HeadMeasures b = MeasuresOf(cut, 1, head);
    EXPECT_GT(a.entropy, 0);
    EXPECT_NEAR(a.entropy, b.entropy, 1e-5);
    EXPECT_NEAR(a.mean_distance, b.mean_distance, 1e-3);
    EXPECT_EQ(a.recall, 1);
    EXPECT_EQ(b.recall, 1);
    EXPECT_EQ(a.density, 1);
    EXPECT_EQ(whole.attended(0, 1, head)[0].position,
              cut.attended(0, 1, head)[0].position);
  }
}

TEST(EngineProfileTest, APatternLosesWeightAndBlocks) {
  const auto engine = MeasuringEngine();
  const AttentionChoice choice = {SlidingWindowPattern{.window_tokens = 32}};
  const AttentionProfile profile = Measure(*engine, &choice, kTokens);
  const HeadMeasures measures = MeasuresOf(profile, 0, 0);
  EXPECT_LT(measures.recall, 0.9);
  EXPECT_GT(measures.recall, 0);
  // Four query blocks: the first visits its own, the others two.
  EXPECT_EQ(measures.density, 7.0 / 10);
  // The weights are dense all the same.
  EXPECT_NEAR(measures.locality.back(), 1, 1e-5);
}

TEST(EngineProfileTest, SlicesThatCannotBeMeasuredAreNamed) {
  const auto engine = MeasuringEngine();
  const Stream stream(RandomTokens(kTokens, 1), /*first_page=*/0);
  AttentionProfile profile = MakeProfile();
  AttentionProfile shorter = MakeProfile(100);
  AttentionProfile deeper(
      {.layers = 3, .heads = 4, .kv_heads = 2, .tokens = kTokens}, {});
  struct Row {
    const char* message;
    std::function<void(StepSlice&)> spoil;
  };
  const Row rows[] = {
      {"positions 10 to 199 are not whole pages of a prompt of 200",
       [&](StepSlice& s) { s = SliceOf(stream, 10, 190); }},
      {"positions 0 to 149 are not whole pages",
       [&](StepSlice& s) { s = SliceOf(stream, 0, 150); }},
      {"a prompt of 100 tokens", [&](StepSlice& s) { s.profile = &shorter; }},
      {"not whole pages", [](StepSlice& s) { s.phase = Phase::kDecode; }},
      {"its profile is for 3 layers of 4 heads and 2 KV heads, the model has 2",
       [&](StepSlice& s) { s.profile = &deeper; }},
  };
  for (const Row& row : rows) {
    StepSlice slice = SliceOf(stream, 0, kTokens);
    row.spoil(slice);
    if (slice.profile == nullptr) slice.profile = &profile;
    EXPECT_THAT(std::string(SliceStatus(*engine, slice).message()),
                HasSubstr(row.message));
  }
  StepSlice slice = SliceOf(stream, 0, kTokens);
  slice.profile = &profile;
  EXPECT_THAT(
      std::string(SliceStatus(*MakeEngine(TinyModel()), slice).message()),
      HasSubstr("measure_recall"));
}

}  // namespace
}  // namespace sparseserve
