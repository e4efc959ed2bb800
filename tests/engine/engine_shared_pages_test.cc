// Prompts that begin with pages which others computed: a prefix that is found
// again, and answers that have their prompt in common.

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/pattern/attention_choice.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using testing::ExactOptions;
using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::RunAlone;
using testing::Stream;
using testing::TinyModel;

constexpr int kVocab = TinyModel::kVocabSize;
constexpr int kPrompt = 300;

// Runs the stream's next `count` tokens as a part of a prompt that is
// `stream.tokens` but for its last `outputs`.
std::vector<float> RunPart(Engine& engine, Stream& stream, int count,
                           const AttentionChoice& choice, int outputs = 1) {
  std::vector<float> logits;
  StepSlice slice = NextSlice(stream, count, logits);
  const absl::Span<const TokenId> tokens = stream.tokens;
  slice.prompt = tokens.first(tokens.size() - outputs);
  slice.phase = stream.done < static_cast<int>(slice.prompt.size())
                    ? Phase::kPrefill
                    : Phase::kDecode;
  slice.attention = &choice;
  EXPECT_TRUE(testing::SliceStatus(engine, slice).ok());
  stream.done += count;
  return logits;
}

// The stream of `tokens` begins with the first `hit` tokens of `owner`.
Stream StreamWithHit(std::vector<TokenId> tokens, PageId first_page,
                     const Stream& owner, int hit) {
  Stream stream(std::move(tokens), first_page);
  for (int page = 0; page < hit / kPageTokens; ++page) {
    stream.pages[page] = owner.pages[page];
  }
  stream.done = hit;
  return stream;
}

std::vector<float> From(const std::vector<float>& logits, int row) {
  return {logits.begin() + int64_t{row} * kVocab, logits.end()};
}

struct HitCase {
  std::string name;
  AttentionChoice choice;
  std::string compute_dtype = "f32";
};

class PrefixHitTest : public ::testing::TestWithParam<HitCase> {};

TEST_P(PrefixHitTest, LogitsBehindAHitAreThoseWithoutItToTheBit) {
  Engine::Options options = ExactOptions();
  options.compute_dtype = GetParam().compute_dtype;
  const auto engine = MakeEngine({.layers = 3}, options);
  const AttentionChoice& choice = GetParam().choice;
  for (const int hit : {64, 128, 256}) {
    SCOPED_TRACE(hit);
    // The first sequence goes another way behind what they have in common.
    Stream first(RandomTokens(kPrompt + 1, 1), 0);
    RunPart(*engine, first, kPrompt, choice);
    std::vector<TokenId> tokens = RandomTokens(kPrompt + 1, 2);
    std::copy_n(first.tokens.begin(), hit, tokens.begin());

    Stream alone(tokens, 8);
    const std::vector<float> wanted = RunPart(*engine, alone, kPrompt, choice);
    const std::vector<float> wanted_output = RunPart(*engine, alone, 1, choice);
    Stream second = StreamWithHit(tokens, 16, first, hit);
    EXPECT_EQ(RunPart(*engine, second, kPrompt - hit, choice),
              From(wanted, hit));
    EXPECT_EQ(RunPart(*engine, second, 1, choice), wanted_output);
    // What they share still stands.
    Stream again(first.tokens, 24);
    RunPart(*engine, again, kPrompt, choice);
    EXPECT_EQ(RunPart(*engine, first, 1, choice),
              RunPart(*engine, again, 1, choice));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Patterns, PrefixHitTest,
    ::testing::Values(
        HitCase{"dense", {DensePattern()}},
        HitCase{"dense_rounded", {DensePattern()}, "bf16"},
        HitCase{"sink_window", {SinkWindowPattern{64, 128}}},
        HitCase{"xattention", {XAttentionPattern{.threshold = 0.5f}}},
        HitCase{"peak_weight", {PeakWeightPattern{.threshold = 0.1f}}},
        HitCase{"quest",
                {QuestPattern{.budget_tokens = 128,
                              .sink_tokens = 0,
                              .window_tokens = 64,
                              .dense_layers = 0}}}),
    [](const auto& instance) { return instance.param.name; });

TEST(EngineSharedPagesTest, AHitOfAllButOneTokenGivesItsLogits) {
  const auto engine = MakeEngine({});
  const AttentionChoice dense = {DensePattern()};
  Stream first(RandomTokens(129, 1), 0);
  const std::vector<float> wanted = RunPart(*engine, first, 129, dense, 0);
  Stream second = StreamWithHit(first.tokens, 8, first, 128);
  EXPECT_EQ(RunPart(*engine, second, 1, dense, 0), From(wanted, 128));
}

TEST(EngineSharedPagesTest, ManySlicesOfAStepReadTheSamePages) {
  const auto engine = MakeEngine({});
  const std::vector<TokenId> prefix = RandomTokens(128, 1);
  Stream owner(prefix, 0);
  RunAlone(*engine, owner, 128);

  std::vector<std::vector<float>> logits(3), wanted;
  std::vector<Stream> streams;
  for (int i = 0; i < 3; ++i) {
    std::vector<TokenId> tokens = RandomTokens(140 + i, 10 + i);
    std::copy(prefix.begin(), prefix.end(), tokens.begin());
    Stream alone(tokens, 8);
    wanted.push_back(
        From(RunAlone(*engine, alone, static_cast<int>(tokens.size())), 128));
    streams.push_back(StreamWithHit(tokens, 16 + 8 * i, owner, 128));
  }
  StepPlan plan;
  for (int i = 0; i < 3; ++i) {
    plan.slices.push_back(NextSlice(streams[i], 12 + i, logits[i]));
  }
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(logits, wanted);
}

TEST(EngineSharedPagesTest, ACopiedPageIsReadAndWrittenApart) {
  const auto engine = MakeEngine({.layers = 3});
  const std::vector<TokenId> prompt = RandomTokens(100, 1);
  std::vector<TokenId> one = prompt;
  std::vector<TokenId> other = prompt;
  one.push_back(1);
  other.push_back(2);
  Stream alone(other, 8);
  RunAlone(*engine, alone, 100);
  const std::vector<float> wanted_other = RunAlone(*engine, alone, 1);
  Stream alone_one(one, 16);
  RunAlone(*engine, alone_one, 100);
  const std::vector<float> wanted_one = RunAlone(*engine, alone_one, 1);

  Stream first(one, 0);
  RunAlone(*engine, first, 100);
  Stream second = StreamWithHit(other, 24, first, 64);
  second.done = 100;
  std::vector<float> logits_one, logits_other;
  StepPlan plan;
  plan.page_copies = {{.from = first.pages[1], .to = second.pages[1]}};
  plan.slices = {NextSlice(first, 1, logits_one),
                 NextSlice(second, 1, logits_other)};
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(logits_one, wanted_one);
  EXPECT_EQ(logits_other, wanted_other);
}

TEST(EngineSharedPagesTest, CopiesOfWhatIsNoPageAreAnErrorOfThePlan) {
  const auto engine = MakeEngine({});
  const int pages = engine->kv_pages();
  const PageCopy bad[] = {{-1, 0}, {0, -1}, {pages, 0}, {0, pages}, {1, 1}};
  for (const PageCopy& copy : bad) {
    StepPlan plan;
    plan.page_copies = {copy};
    const auto result = engine->Step(plan);
    EXPECT_TRUE(absl::IsInvalidArgument(result.status()));
    EXPECT_THAT(
        std::string(result.status().message()),
        HasSubstr("must be two pages of 0 to " + std::to_string(pages - 1)));
  }
}

}  // namespace
}  // namespace sparseserve
