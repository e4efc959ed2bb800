#include "server/scheduling/sequence.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/profile/attention_profile.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::FakeTokenizer;
using ::testing::IsEmpty;
using testing::RecordingSink;

constexpr TokenId kEnd = FakeTokenizer::kEndToken;
constexpr int kContext = 1000;
constexpr int kLeastBudget = 200;

const FakeTokenizer& Tokenizer() {
  static const FakeTokenizer tokenizer;
  return tokenizer;
}

absl::Time At(int ms) {
  return absl::FromUnixSeconds(1000) + absl::Milliseconds(ms);
}

std::unique_ptr<Request> MakeRequest(int prompt_tokens, int max_output) {
  auto request = std::make_unique<Request>();
  request->arrival = At(0);
  request->prompt.assign(prompt_tokens, 'p');
  request->max_output_tokens = max_output;
  request->sink = std::make_shared<RecordingSink>();
  return request;
}

SliceResult Drawn(TokenId token) {
  SliceResult result;
  result.token = token;
  result.blocks = {.computed = 2, .allowed = 3};
  return result;
}

class SequenceTest : public ::testing::Test {
 protected:
  // Makes the sequence and starts it at 10 ms.
  Sequence& Start(std::unique_ptr<Request> request, int context = kContext) {
    sequence_ = std::make_unique<Sequence>(
        1, std::move(request),
        Sequence::Limits{.max_tokens = context, .least_budget = kLeastBudget},
        Tokenizer());
    PageLease lease;
    EXPECT_TRUE(pool_.Grow(lease, sequence_->pages_needed()));
    sequence_->Start(std::move(lease), At(10));
    return *sequence_;
  }
  // Runs the next slice whole.
  OutputPiece Draw(TokenId token, absl::Time now = At(20)) {
    return sequence_->Advance(sequence_->NextTokens(1000), Drawn(token), now)
        .piece;
  }

  PagePool pool_{100};
  std::unique_ptr<Sequence> sequence_;
};

struct PagesRow {
  int prompt, max_output, context, pages;
};

TEST(SequencePagesTest, NeedsPagesForAllButTheLastToken) {
  const PagesRow rows[] = {
      {1, 1, 1000, 1},  {64, 1, 1000, 1}, {64, 2, 1000, 2},  {65, 1, 1000, 2},
      {60, 5, 1000, 1}, {60, 6, 1000, 2}, {10, 500, 128, 2}, {127, 500, 128, 2},
  };
  for (const PagesRow& row : rows) {
    const Sequence sequence(1, MakeRequest(row.prompt, row.max_output),
                            {.max_tokens = row.context}, Tokenizer());
    EXPECT_EQ(sequence.pages_needed(), row.pages)
        << row.prompt << "+" << row.max_output;
  }
}

TEST_F(SequenceTest, AMeasuredPromptComesInSmallChunksWithItsProfile) {
  std::unique_ptr<Request> request = MakeRequest(300, 2);
  const auto profile = std::make_shared<AttentionProfile>(
      AttentionProfile::Shape{1, 1, 1, 300}, AttentionProfile::Options());
  request->profile = profile;
  Sequence& sequence = Start(std::move(request));
  EXPECT_EQ(sequence.NextTokens(1000), 128);
  EXPECT_EQ(sequence.NextTokens(100), 64);
  EXPECT_EQ(sequence.Slice(128).profile, profile.get());
  sequence.Advance(128, {}, At(20));
  sequence.Advance(128, {}, At(20));
  EXPECT_EQ(sequence.NextTokens(1000), 44);
  Draw('a');
  EXPECT_EQ(sequence.Slice(1).profile, nullptr);
}

TEST_F(SequenceTest, ChunksEndOnPageBordersOrWithThePrompt) {
  Sequence& sequence = Start(MakeRequest(150, 5));
  EXPECT_EQ(sequence.NextTokens(63), 0);
  EXPECT_EQ(sequence.NextTokens(64), 64);
  EXPECT_EQ(sequence.NextTokens(127), 64);
  EXPECT_EQ(sequence.NextTokens(128), 128);
  EXPECT_EQ(sequence.NextTokens(149), 128);
  EXPECT_EQ(sequence.NextTokens(150), 150);
  sequence.Advance(128, {}, At(20));
  EXPECT_EQ(sequence.NextTokens(21), 0);
  EXPECT_EQ(sequence.NextTokens(22), 22);
  EXPECT_EQ(sequence.NextTokens(1000), 22);
}

TEST_F(SequenceTest, ChunksEndWhereThePatternMayBeCut) {
  std::unique_ptr<Request> request = MakeRequest(300, 5);
  request->attention.traits.chunk_border_tokens = 128;
  Sequence& sequence = Start(std::move(request));
  EXPECT_EQ(sequence.NextTokens(127), 0);
  EXPECT_EQ(sequence.NextTokens(200), 128);
  sequence.Advance(128, {}, At(20));
  sequence.Advance(128, {}, At(20));
  sequence.Advance(44, Drawn(kEnd), At(20));
  EXPECT_TRUE(sequence.Report().reproducible);
}

TEST_F(SequenceTest, ACutElsewhereDoesNotReproduce) {
  std::unique_ptr<Request> request = MakeRequest(300, 5);
  // No prompt is sure to get so many rows.
  request->attention.traits.chunk_border_tokens = 256;
  Sequence& sequence = Start(std::move(request));
  ASSERT_EQ(sequence.NextTokens(kLeastBudget), 192);
  sequence.Advance(192, {}, At(20));
  sequence.Advance(108, Drawn(kEnd), At(20));
  EXPECT_FALSE(sequence.Report().reproducible);
}

TEST_F(SequenceTest, WhatTheRequestAskedForReachesSlicesAndReport) {
  std::unique_ptr<Request> request = MakeRequest(3, 5);
  request->attention.plan = "fast";
  request->attention.choice.pattern = XAttentionPattern{.stride = 4};
  request->attention.ruled_heads = {2};
  Sequence& sequence = Start(std::move(request));
  const StepSlice prompt = sequence.Slice(3);
  ASSERT_NE(prompt.attention, nullptr);
  EXPECT_EQ(prompt.attention->pattern,
            PatternSpec(XAttentionPattern{.stride = 4}));
  sequence.Advance(3, Drawn('x'), At(20));
  EXPECT_EQ(sequence.Slice(1).attention, prompt.attention);
  ASSERT_NE(prompt.kept_blocks, nullptr);
  EXPECT_EQ(sequence.Slice(1).kept_blocks, prompt.kept_blocks);
  Draw(kEnd);
  EXPECT_EQ(sequence.Report().plan, "fast");
  EXPECT_EQ(sequence.Report().heads, PatternHeads{2});
}

TEST_F(SequenceTest, SlicesOfAPromptThenOneTokenEach) {
  Sequence& sequence = Start(MakeRequest(70, 5));
  StepSlice slice = sequence.Slice(64);
  EXPECT_EQ(slice.phase, Phase::kPrefill);
  EXPECT_EQ(slice.first_position, 0);
  EXPECT_FALSE(slice.wants_token);
  EXPECT_EQ(slice.pages.size(), 2u);

  sequence.Advance(64, {}, At(20));
  slice = sequence.Slice(6);
  EXPECT_EQ(slice.phase, Phase::kPrefill);
  EXPECT_EQ(slice.first_position, 64);
  EXPECT_TRUE(slice.wants_token);
  EXPECT_THAT(slice.output, IsEmpty());

  sequence.Advance(6, Drawn('x'), At(30));
  slice = sequence.Slice(1);
  EXPECT_EQ(slice.phase, Phase::kDecode);
  EXPECT_EQ(slice.first_position, 70);
  EXPECT_TRUE(slice.wants_token);
  EXPECT_THAT(slice.tokens, ElementsAre('x'));
  EXPECT_EQ(slice.prompt.size(), 70u);
  EXPECT_THAT(slice.output, ElementsAre('x'));
  EXPECT_EQ(slice.sampling, &sequence.request().sampling);
}

struct FinishRow {
  std::string name;
  std::string drawn;  // '$' is the end token
  std::function<void(Request&)> configure;
  FinishReason reason;
  std::string text;
  int output_tokens;
  std::string matched;
};

class SequenceFinishTest : public SequenceTest,
                           public ::testing::WithParamInterface<FinishRow> {};

TEST_P(SequenceFinishTest, EndsWithTheLastTokenDrawn) {
  const FinishRow& row = GetParam();
  std::unique_ptr<Request> request = MakeRequest(3, 6);
  row.configure(*request);
  Sequence& sequence = Start(std::move(request), 12);
  std::string text;
  std::vector<TokenId> ids;
  for (const char letter : row.drawn) {
    ASSERT_FALSE(sequence.ended());
    const OutputPiece piece = Draw(letter == '$' ? kEnd : letter);
    text += piece.text;
    ids.insert(ids.end(), piece.token_ids.begin(), piece.token_ids.end());
  }
  ASSERT_TRUE(sequence.ended());
  const FinishReport report = sequence.Report();
  EXPECT_EQ(report.reason, row.reason);
  EXPECT_EQ(report.matched_stop_string, row.matched);
  EXPECT_EQ(report.output_tokens, row.output_tokens);
  EXPECT_EQ(text, row.text);
  std::vector<TokenId> all;
  for (const char letter : row.drawn) {
    all.push_back(letter == '$' ? kEnd : letter);
  }
  all.resize(row.output_tokens);
  EXPECT_THAT(ids, ::testing::ElementsAreArray(all));
  EXPECT_EQ(pool_.leased(), 0);
}

const FinishRow kFinishRows[] = {
    {"EndTokenIsNotOutput", "ab$", [](Request&) {}, FinishReason::kStop, "ab",
     2},
    {"EndTokenFirstLeavesNoOutput", "$", [](Request&) {}, FinishReason::kStop,
     "", 0},
    {"MostTokens", "abcdef", [](Request&) {}, FinishReason::kLength, "abcdef",
     6},
    {"EndOfContext", "abcdefghi", [](Request& r) { r.max_output_tokens = 100; },
     FinishReason::kLength, "abcdefghi", 9},
    {"StopTokenIsNotOutput", "abx",
     [](Request& r) {
       r.stop_token_ids = {'y', 'x'};
     },
     FinishReason::kStopSequence, "ab", 2},
    {"TokensOfAStopStringAreOutput", "abcd",
     [](Request& r) { r.stop_strings = {"cd"}; }, FinishReason::kStopSequence,
     "ab", 4, "cd"},
    {"HeldTextComesWithTheEnd", "abc$",
     [](Request& r) { r.stop_strings = {"cd"}; }, FinishReason::kStop, "abc",
     3},
    {"HeldTextComesWithTheLength", "abcdec",
     [](Request& r) { r.stop_strings = {"cx"}; }, FinishReason::kLength,
     "abcdec", 6},
    {"StopStringWinsOverTheLength", "abcdef",
     [](Request& r) { r.stop_strings = {"f"}; }, FinishReason::kStopSequence,
     "abcde", 6, "f"},
    {"IgnoredEndTokenIsOutputWithoutText", "a$bcde",
     [](Request& r) { r.ignore_eos = true; }, FinishReason::kLength, "abcde",
     6},
    {"StopTokenCountsWhereEndTokensDoNot", "a$",
     [](Request& r) {
       r.ignore_eos = true;
       r.stop_token_ids = {kEnd};
     },
     FinishReason::kStopSequence, "a", 1},
    {"StopStringBeforeTheLeastLengthIsText", "xxbx",
     [](Request& r) {
       r.min_output_tokens = 3;
       r.stop_strings = {"x"};
     },
     FinishReason::kStopSequence, "xxb", 4, "x"},
    {"StopStringAtTheLeastLengthCounts", "abx",
     [](Request& r) {
       r.min_output_tokens = 3;
       r.stop_strings = {"x"};
     },
     FinishReason::kStopSequence, "ab", 3, "x"},
    {"EndTokenAfterTheLeastLengthCounts", "ab$",
     [](Request& r) { r.min_output_tokens = 2; }, FinishReason::kStop, "ab", 2},
};

INSTANTIATE_TEST_SUITE_P(Table, SequenceFinishTest,
                         ::testing::ValuesIn(kFinishRows),
                         [](const auto& info) { return info.param.name; });

TEST_F(SequenceTest, BansEndAndStopTokensBeforeTheLeastLength) {
  std::unique_ptr<Request> request = MakeRequest(3, 6);
  request->min_output_tokens = 2;
  request->stop_token_ids = {'x'};
  Sequence& sequence = Start(std::move(request));
  EXPECT_THAT(sequence.Slice(3).banned, ElementsAre('x', kEnd));
  Draw('a');
  EXPECT_THAT(sequence.Slice(1).banned, ElementsAre('x', kEnd));
  Draw('a');
  EXPECT_THAT(sequence.Slice(1).banned, IsEmpty());
}

TEST_F(SequenceTest, DoesNotBanEndTokensThatItIgnores) {
  std::unique_ptr<Request> request = MakeRequest(3, 6);
  request->min_output_tokens = 2;
  request->ignore_eos = true;
  EXPECT_THAT(Start(std::move(request)).Slice(3).banned, IsEmpty());
}

TEST_F(SequenceTest, GivesOneLogprobPerTokenIdIfAsked) {
  std::unique_ptr<Request> request = MakeRequest(3, 6);
  request->sampling.logprobs = 1;
  Start(std::move(request));
  SliceResult result = Drawn('a');
  result.chosen = {'a', -0.25f};
  result.alternatives = {{'b', -2.0f}};
  const OutputPiece piece = sequence_->Advance(3, result, At(20)).piece;
  ASSERT_EQ(piece.logprobs.size(), 1u);
  EXPECT_EQ(piece.logprobs[0].chosen.token, 'a');
  EXPECT_EQ(piece.logprobs[0].alternatives[0].token, 'b');
  EXPECT_THAT(Draw(kEnd).logprobs, IsEmpty());
}

TEST_F(SequenceTest, GivesNoLogprobsUnasked) {
  Start(MakeRequest(3, 6));
  EXPECT_THAT(Draw('a').logprobs, IsEmpty());
}

TEST_F(SequenceTest, TellsTheTimeBetweenOutputTokens) {
  Sequence& sequence = Start(MakeRequest(3, 6));
  EXPECT_EQ(sequence.Advance(3, Drawn('a'), At(20)).token_gap, std::nullopt);
  EXPECT_EQ(sequence.Advance(1, Drawn('b'), At(27)).token_gap,
            absl::Milliseconds(7));
  EXPECT_EQ(sequence.Advance(1, Drawn(kEnd), At(40)).token_gap, std::nullopt);
}

TEST_F(SequenceTest, ReportsWhereTheTimeWent) {
  std::unique_ptr<Request> request = MakeRequest(70, 3);
  request->sampling.seed = 99;
  Sequence& sequence = Start(std::move(request));
  sequence.Advance(64, Drawn(-1), At(15));
  sequence.Advance(6, Drawn('a'), At(30));
  sequence.Advance(1, Drawn('b'), At(50));
  sequence.Advance(1, Drawn('c'), At(90));
  const FinishReport report = sequence.Report();
  EXPECT_EQ(report.queue, absl::Milliseconds(10));
  EXPECT_EQ(report.prefill, absl::Milliseconds(20));
  EXPECT_EQ(report.time_to_first_token, absl::Milliseconds(30));
  EXPECT_EQ(report.time_per_output_token, absl::Milliseconds(30));
  EXPECT_EQ(report.total, absl::Milliseconds(90));
  EXPECT_EQ(report.prompt_tokens, 70);
  EXPECT_EQ(report.output_tokens, 3);
  EXPECT_EQ(report.seed, 99u);
  EXPECT_EQ(report.prefill_blocks.computed, 4);
  EXPECT_EQ(report.prefill_blocks.allowed, 6);
  EXPECT_EQ(report.decode_blocks.computed, 4);
  EXPECT_EQ(report.decode_blocks.allowed, 6);
  EXPECT_TRUE(report.reproducible);

  const RequestSample sample = sequence.Sample();
  EXPECT_EQ(sample.outcome, FinishOutcome::kLength);
  EXPECT_EQ(sample.prefill, report.prefill);
  EXPECT_EQ(sample.decode, absl::Milliseconds(60));
  EXPECT_EQ(sample.time_per_output_token, absl::Milliseconds(30));
  EXPECT_EQ(sample.wasted_tokens, 0);
}

TEST_F(SequenceTest, TimePerTokenIsUpToTheLastOutputToken) {
  Sequence& sequence = Start(MakeRequest(1, 6));
  Draw('a', At(20));
  Draw('b', At(30));
  Draw(kEnd, At(70));
  EXPECT_EQ(sequence.Report().time_per_output_token, absl::Milliseconds(10));
  EXPECT_EQ(sequence.Report().total, absl::Milliseconds(70));
}

TEST_F(SequenceTest, OneTokenHasNoTimePerToken) {
  Sequence& sequence = Start(MakeRequest(1, 1));
  Draw('a', At(20));
  EXPECT_EQ(sequence.Report().time_per_output_token, std::nullopt);
  EXPECT_EQ(sequence.Sample().time_per_output_token, absl::InfiniteDuration());
  EXPECT_EQ(sequence.Sample().decode, absl::ZeroDuration());
}

TEST_F(SequenceTest, FailedSliceEndsItWithoutOutput) {
  Sequence& sequence = Start(MakeRequest(3, 6));
  Draw('a');
  SliceResult failed = Drawn('b');
  failed.status = absl::InternalError("NaN in row 0");
  const Sequence::Advanced advanced = sequence.Advance(1, failed, At(30));
  EXPECT_TRUE(advanced.piece.text.empty());
  EXPECT_THAT(advanced.piece.token_ids, IsEmpty());
  EXPECT_EQ(sequence.ending(), Ending::kNumericFault);
  EXPECT_EQ(pool_.leased(), 0);
}

TEST_F(SequenceTest, CancelledWorkIsWasted) {
  Sequence& sequence = Start(MakeRequest(150, 6));
  sequence.Advance(128, {}, At(20));
  sequence.End(Ending::kCancelled, At(40));
  const RequestSample sample = sequence.Sample();
  EXPECT_EQ(sample.wasted_tokens, 128);
  EXPECT_EQ(sample.queue, absl::Milliseconds(10));
  EXPECT_EQ(sample.time_to_first_token, absl::InfiniteDuration());
  EXPECT_EQ(sample.total, absl::Milliseconds(40));
  EXPECT_EQ(sequence.progress(), Progress::kPrefill);
  EXPECT_EQ(pool_.leased(), 0);
}

TEST(SequenceWaitingTest, AllItsTimeWasSpentWaiting) {
  Sequence sequence(1, MakeRequest(3, 6), {.max_tokens = kContext},
                    Tokenizer());
  sequence.End(Ending::kDeadline, At(25));
  EXPECT_EQ(sequence.progress(), Progress::kWaiting);
  EXPECT_EQ(sequence.Sample().queue, absl::Milliseconds(25));
  EXPECT_EQ(sequence.Sample().wasted_tokens, 0);
}

TEST_F(SequenceTest, RunsPromptAndOutputAnewAfterItWasStopped) {
  Sequence& sequence = Start(MakeRequest(100, 9));
  Draw('a');
  Draw('b');
  sequence.Preempt();
  EXPECT_EQ(pool_.leased(), 0);
  EXPECT_EQ(sequence.tokens_to_run(), 102);
  EXPECT_EQ(sequence.progress(), Progress::kDecode);
  PageLease lease;
  ASSERT_TRUE(pool_.Grow(lease, sequence.pages_for(102)));
  sequence.Start(std::move(lease), At(500));

  // The prompt as before, without a draw; then the output in one piece.
  ASSERT_EQ(sequence.NextTokens(1000), 100);
  const StepSlice prompt = sequence.Slice(100);
  EXPECT_EQ(prompt.phase, Phase::kPrefill);
  EXPECT_FALSE(prompt.wants_token);
  EXPECT_TRUE(sequence.Advance(100, Drawn(-1), At(510)).piece.text.empty());
  ASSERT_EQ(sequence.NextTokens(1000), 2);
  EXPECT_FALSE(sequence.is_decoding());
  const StepSlice output = sequence.Slice(2);
  EXPECT_EQ(output.phase, Phase::kDecode);
  EXPECT_EQ(output.first_position, 100);
  EXPECT_TRUE(output.wants_token);
  EXPECT_EQ(output.output.size(), 2u);
  EXPECT_THAT(sequence.Advance(2, Drawn('c'), At(520)).piece.token_ids,
              ElementsAre('c'));
  EXPECT_TRUE(sequence.is_decoding());

  // What ran twice counts once.
  sequence.End(Ending::kCancelled, At(530));
  EXPECT_EQ(sequence.Sample().prefill_blocks.computed, 2);
  EXPECT_EQ(sequence.Sample().decode_blocks.computed, 2);
  EXPECT_EQ(sequence.Sample().queue, absl::Milliseconds(10));
}

TEST_F(SequenceTest, SaysWhatItsTokensMakeOfAStep) {
  Sequence& sequence = Start(MakeRequest(128, 9));
  EXPECT_EQ(sequence.LeastTokens(), 64);
  // 128 rows that see up to two blocks.
  StepWork work = sequence.WorkOf(128);
  EXPECT_EQ(work.prompt_rows, 128);
  EXPECT_EQ(work.prompt_blocks, 4);
  EXPECT_EQ(work.decode_rows, 0);
  Draw('a');
  work = sequence.WorkOf(1);
  EXPECT_EQ(work.decode_rows, 1);
  EXPECT_NEAR(work.decode_blocks, 3, 0.01);
  EXPECT_EQ(work.prompt_rows, 0);
  // Two of three blocks are visited.
  Draw('b');
  EXPECT_NEAR(sequence.WorkOf(1).decode_blocks, 2, 0.02);
}

TEST_F(SequenceTest, EndThatCouldNotBeDeliveredIsReplaced) {
  Sequence& sequence = Start(MakeRequest(1, 1));
  Draw('a', At(20));
  sequence.End(Ending::kSlowConsumer, At(20));
  EXPECT_EQ(sequence.ending(), Ending::kSlowConsumer);
  EXPECT_EQ(sequence.Sample().outcome, FinishOutcome::kCancelled);
}

}  // namespace
}  // namespace sparseserve
