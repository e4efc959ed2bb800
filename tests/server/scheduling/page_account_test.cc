#include "server/scheduling/page_account.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/profile/attention_profile.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_executor.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::FakeExecutor;
using ::testing::IsEmpty;

constexpr int kPages = 40;
constexpr int kStepTokens = 4096;

ModelInfo Model() {
  ModelInfo model;
  model.layers = 4;
  model.heads = 2;
  model.kv_heads = 1;
  return model;
}

PatternDecision Named(std::string plan, const PatternSpec& pattern) {
  return Decide(std::move(plan), pattern, Model());
}

// `pages` pages that begin alike for the same seed, and `more` tokens.
std::vector<TokenId> Prompt(int pages, int more = 0, int last = 'z') {
  std::vector<TokenId> prompt;
  for (int i = 0; i < pages * kPageTokens; ++i) {
    prompt.push_back('a' + (i / kPageTokens * 7 + i) % 26);
  }
  prompt.insert(prompt.end(), more, last);
  return prompt;
}

std::unique_ptr<Request> MakeRequest(std::vector<TokenId> prompt) {
  auto request = std::make_unique<Request>();
  request->prompt = std::move(prompt);
  request->attention = Named(kDensePlan, DensePattern());
  request->max_output_tokens = 1000;
  return request;
}

// A sequence as the scheduler will have it.
struct Running {
  SequenceId id = 0;
  std::unique_ptr<Request> request;
  PageClaim claim;
  std::vector<TokenId> tokens;  // prompt and output
  int computed = 0;

  int prompt_tokens() const { return static_cast<int>(request->prompt.size()); }
  int size() const { return static_cast<int>(tokens.size()); }
};

class PageAccountTest : public ::testing::Test {
 protected:
  static int PagesFor(int tokens) {
    return (tokens + kPageTokens - 1) / kPageTokens;
  }

  void Make(PageAccount::Options options) {
    running_.clear();
    options.pages = options.pages == 0 ? kPages : options.pages;
    options.model_name = "model";
    account_ = std::make_unique<PageAccount>(std::move(options));
    executor_ =
        std::make_unique<FakeExecutor>(account_->pool().total(), kStepTokens);
  }

  void SetUp() override { Make({}); }
  void TearDown() override {
    EXPECT_THAT(executor_->breaches(), IsEmpty());
    CheckInvariants();
  }

  // Null if there are too few pages.
  Running* Start(std::unique_ptr<Request> request, int more_pages = 0) {
    auto running = std::make_unique<Running>();
    running->id = next_id_++;
    running->tokens = request->prompt;
    std::optional<PageClaim> claim =
        account_->Start({.request = *request,
                         .tokens = running->tokens,
                         .pages = PagesFor(running->size()) + more_pages,
                         .sequence = running->id});
    if (!claim.has_value()) return nullptr;
    running->request = std::move(request);
    running->claim = std::move(*claim);
    running->computed = running->claim.hit_tokens();
    running_.push_back(std::move(running));
    return running_.back().get();
  }

  StepSlice Slice(const Running& running, int tokens) const {
    StepSlice slice;
    slice.sequence = running.id;
    const absl::Span<const TokenId> all = running.tokens;
    slice.phase = running.computed < running.prompt_tokens() ? Phase::kPrefill
                                                             : Phase::kDecode;
    slice.tokens = all.subspan(running.computed, tokens);
    slice.first_position = running.computed;
    slice.pages = running.claim.lease().pages();
    slice.attention = &running.request->attention.choice;
    slice.wants_token = running.computed + tokens == running.size();
    slice.sampling = &running.request->sampling;
    slice.prompt = all.first(running.prompt_tokens());
    slice.output = all.subspan(running.prompt_tokens());
    return slice;
  }

  // Runs the sequence's next `tokens` tokens, by default the rest of its prompt
  // or, behind it, of its output. What it draws must be what its tokens alone
  // lead to.
  void Step(Running& running, int tokens = 0,
            std::vector<PageCopy> copies = {}) {
    if (tokens == 0) {
      const bool is_prompt = running.computed < running.prompt_tokens();
      tokens = (is_prompt ? running.prompt_tokens() : running.size()) -
               running.computed;
    }
    StepPlan plan;
    plan.slices.push_back(Slice(running, tokens));
    plan.page_copies = std::move(copies);
    const bool draws = plan.slices[0].wants_token;
    const auto result = executor_->Step(plan);
    ASSERT_TRUE(result.ok());
    running.computed += tokens;
    account_->Filled(
        running.claim,
        absl::MakeConstSpan(running.tokens).first(running.computed));
    if (!draws) return;
    ASSERT_EQ(result->slices[0].token, FakeExecutor::NextToken(running.tokens));
    running.tokens.push_back(result->slices[0].token);
  }

  // Gives its pages back and begins anew. Returns what it finds again.
  int Restart(Running& running, int measured_tokens = 0) {
    running.claim = PageClaim();
    running.claim = *account_->Start({.request = *running.request,
                                      .tokens = running.tokens,
                                      .pages = PagesFor(running.size()),
                                      .sequence = running.id,
                                      .is_restart = true,
                                      .measured_tokens = measured_tokens});
    running.computed = running.claim.hit_tokens();
    return running.computed;
  }

  Running& StartAndRun(std::unique_ptr<Request> request) {
    Running* running = Start(std::move(request));
    EXPECT_NE(running, nullptr);
    Step(*running);
    return *running;
  }
  // What a request of the prompt would hit.
  int HitOf(std::unique_ptr<Request> request) {
    Running* running = Start(std::move(request));
    EXPECT_NE(running, nullptr);
    const int hit = running->claim.hit_tokens();
    End(*running);
    return hit;
  }

  void End(Running& ended) {
    running_.erase(std::find_if(
        running_.begin(), running_.end(),
        [&](const auto& running) { return running.get() == &ended; }));
  }

  void Fail(Running& failed) {
    account_->Discard(failed.claim);
    End(failed);
  }

  void CheckInvariants() {
    std::vector<const PageClaim*> claims;
    for (const auto& running : running_) claims.push_back(&running->claim);
    const absl::Status status = account_->CheckInvariants(claims);
    ASSERT_TRUE(status.ok()) << status;
  }

  std::unique_ptr<PageAccount> account_;
  std::unique_ptr<FakeExecutor> executor_;
  std::vector<std::unique_ptr<Running>> running_;
  SequenceId next_id_ = 1;
};

TEST_F(PageAccountTest, APromptBeginsWithPagesThatAnotherFilled) {
  StartAndRun(MakeRequest(Prompt(3, 10)));
  Running* second = Start(MakeRequest(Prompt(3, 20, 'y')));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->claim.hit_tokens(), 192);
  EXPECT_TRUE(second->claim.is_reproducible());
  EXPECT_EQ(account_->pool().leased(), 5);
  Step(*second);
  const PageAccount::Counts counts = account_->TakeCounts();
  EXPECT_EQ(counts.query_tokens, 202 + 212);
  EXPECT_EQ(counts.hit_tokens, 192);
  EXPECT_EQ(account_->TakeCounts().query_tokens, 0);
}

TEST_F(PageAccountTest, PagesOutliveTheSequenceThatFilledThem) {
  End(StartAndRun(MakeRequest(Prompt(3, 10))));
  EXPECT_EQ(account_->pool().cached(), 3);
  EXPECT_EQ(account_->available(), kPages);
  Running* second = Start(MakeRequest(Prompt(3, 20, 'y')));
  EXPECT_EQ(second->claim.hit_tokens(), 192);
  Step(*second);
}

TEST_F(PageAccountTest, ALastTokenIsAlwaysComputed) {
  StartAndRun(MakeRequest(Prompt(3)));
  Running* second = Start(MakeRequest(Prompt(3)));
  EXPECT_EQ(second->claim.hit_tokens(), 128);
  Step(*second);
  // It filled the same page, and now has the first one's.
  EXPECT_EQ(account_->pool().leased(), 3);
}

TEST_F(PageAccountTest, OnlyWhatIsComputedIsFound) {
  Running* first = Start(MakeRequest(Prompt(4)));
  EXPECT_EQ(HitOf(MakeRequest(Prompt(4))), 0);
  Step(*first, 128);
  EXPECT_EQ(HitOf(MakeRequest(Prompt(4))), 128);
}

TEST_F(PageAccountTest, WithoutPrefixesNothingIsKept) {
  Make({.keeps_prefixes = false});
  End(StartAndRun(MakeRequest(Prompt(3, 10))));
  EXPECT_EQ(account_->pool().free(), kPages);
  EXPECT_EQ(HitOf(MakeRequest(Prompt(3, 10))), 0);
  EXPECT_EQ(account_->TakeCounts().query_tokens, 0);
}

TEST_F(PageAccountTest, SaltsKeepCallersApartEvenIfEverythingCollides) {
  Make({.index = {.hash = [](auto...) -> uint64_t { return 0; }}});
  const auto salted = [](const char* salt) {
    auto request = MakeRequest(Prompt(3, 10));
    request->cache_salt = salt;
    return request;
  };
  StartAndRun(salted("a"));
  for (const char* salt : {"", "b", "aa"}) {
    EXPECT_EQ(HitOf(salted(salt)), 0) << salt;
  }
  EXPECT_EQ(HitOf(salted("a")), 192);
  auto other = MakeRequest(Prompt(2, 74, 'y'));
  other->cache_salt = "a";
  Running* running = Start(std::move(other));
  EXPECT_EQ(running->claim.hit_tokens(), 128);
  Step(*running);
}

TEST_F(PageAccountTest, OutputIsFoundByThoseThatNeedNotReproduce) {
  Running& first = StartAndRun(MakeRequest(Prompt(1, 32)));
  ASSERT_TRUE(account_->Grow(first.claim, 4));
  while (first.size() < 200) Step(first);
  const std::vector<TokenId> conversation = first.tokens;
  End(first);
  const auto next = [&] { return MakeRequest(conversation); };
  Running* second = Start(next());
  EXPECT_EQ(second->claim.hit_tokens(), 192);
  EXPECT_FALSE(second->claim.is_reproducible());
  Step(*second);
  auto seeded = next();
  seeded->seed_was_given = true;
  Running* third = Start(std::move(seeded));
  EXPECT_EQ(third->claim.hit_tokens(), 64);
  EXPECT_TRUE(third->claim.is_reproducible());
  Step(*third);
  // What that one computed is now there for others like it.
  auto greedy = next();
  greedy->sampling.temperature = 0;
  EXPECT_EQ(HitOf(std::move(greedy)), 192);
}

TEST_F(PageAccountTest, WhoMustReproduceFindsItsOwnOutputAgain) {
  const auto seeded = [] {
    std::unique_ptr<Request> request = MakeRequest(Prompt(1, 20));
    request->seed_was_given = true;
    return request;
  };
  Running& first = StartAndRun(seeded());
  ASSERT_TRUE(account_->Grow(first.claim, 4));
  while (first.size() < 200) Step(first);
  const auto restart = [&](const Request& request, SequenceId sequence) {
    return account_
        ->Start({.request = request,
                 .tokens = first.tokens,
                 .pages = 4,
                 .sequence = sequence,
                 .is_restart = true})
        ->hit_tokens();
  };
  account_->TakeCounts();
  first.claim = PageClaim();
  EXPECT_EQ(restart(*first.request, first.id), 192);
  EXPECT_EQ(restart(*seeded(), first.id + 1), 64);
  const PageAccount::Counts counts = account_->TakeCounts();
  EXPECT_EQ(counts.query_tokens, 0);
  EXPECT_EQ(counts.refound_tokens, 192 + 64);
}

TEST_F(PageAccountTest, PlansReadTheirOwnClassOrBetter) {
  const auto with_plan = [](const char* plan, QualityClass quality) {
    auto request = MakeRequest(Prompt(3, 10));
    request->attention = Named(plan, XAttentionPattern());
    request->attention.quality.fill(quality);
    return request;
  };
  StartAndRun(with_plan("a", QualityClass::kThreeHundredths));
  EXPECT_EQ(HitOf(MakeRequest(Prompt(3, 10))), 0);  // dense
  EXPECT_EQ(HitOf(with_plan("b", QualityClass::kHundredth)), 0);
  EXPECT_EQ(HitOf(with_plan("a", QualityClass::kThreeHundredths)), 192);
  EXPECT_EQ(HitOf(with_plan("c", QualityClass::kUnbounded)), 192);
  EXPECT_THAT(account_->HitTokens(*MakeRequest(Prompt(3, 10))),
              ElementsAre(0, 0, 192, 192, 192));
  // Pages of another plan are as good, but not the same.
  Running* other = Start(with_plan("c", QualityClass::kUnbounded));
  EXPECT_FALSE(other->claim.is_reproducible());
  auto seeded = with_plan("c", QualityClass::kUnbounded);
  seeded->seed_was_given = true;
  EXPECT_EQ(HitOf(std::move(seeded)), 0);
}

// What nobody measured says nothing of what others measured as little.
TEST_F(PageAccountTest, PatternsWithoutABoundReadNoOthersPages) {
  const auto with = [](const PatternSpec& pattern) {
    auto request = MakeRequest(Prompt(4, 10));
    request->attention = Named("", pattern);
    return request;
  };
  StartAndRun(with(SinkWindowPattern{64, 64}));
  EXPECT_EQ(HitOf(with(SinkWindowPattern{64, 1024})), 0);
  EXPECT_EQ(HitOf(with(SinkWindowPattern{64, 64})), 256);
  // Dense prompts of which the output is not are exact all the same.
  EXPECT_EQ(HitOf(with(QuestPattern())), 0);
  StartAndRun(with(DensePattern()));
  EXPECT_EQ(HitOf(with(QuestPattern())), 256);
  EXPECT_EQ(HitOf(with(SinkWindowPattern{64, 1024})), 256);
}

TEST_F(PageAccountTest, ConversationsOfAPlanForOutputFindAllTheirTurns) {
  const auto next = [](std::vector<TokenId> prompt) {
    auto request = MakeRequest(std::move(prompt));
    request->attention = Named("", QuestPattern());
    return request;
  };
  std::vector<TokenId> conversation = Prompt(1, 32);
  for (int turn = 0; turn < 3; ++turn) {
    SCOPED_TRACE(turn);
    const int said = static_cast<int>(conversation.size()) - 32;
    Running& running = StartAndRun(next(conversation));
    EXPECT_EQ(running.claim.hit_tokens(),
              turn == 0 ? 0 : (said - 1) / kPageTokens * kPageTokens);
    ASSERT_TRUE(account_->Grow(running.claim, PagesFor(running.size()) + 3));
    for (int i = 0; i < 130; ++i) Step(running);
    conversation = running.tokens;
    conversation.resize(conversation.size() + 32, 'u');
    End(running);
  }
}

TEST_F(PageAccountTest, PhasesThatAreDenseAreExact) {
  // Prompts of a pattern for output rows are a dense run's.
  auto request = MakeRequest(Prompt(2, 32));
  request->attention = Named("quest", QuestPattern());
  Running& first = StartAndRun(std::move(request));
  ASSERT_TRUE(account_->Grow(first.claim, 4));
  while (first.size() < 250) Step(first);
  EXPECT_EQ(HitOf(MakeRequest(first.tokens)), 128);
  auto same = MakeRequest(first.tokens);
  same->attention = Named("quest", QuestPattern());
  EXPECT_EQ(HitOf(std::move(same)), 192);
}

TEST_F(PageAccountTest, WhereThePromptsEndChoosesNothingIsSharedOrKept) {
  StartAndRun(MakeRequest(Prompt(3, 10)));
  const auto whole = [] {
    auto request = MakeRequest(Prompt(3, 10));
    request->attention = Named("whole", VerticalSlashPattern());
    return request;
  };
  Running& running = StartAndRun(whole());
  EXPECT_EQ(running.claim.hit_tokens(), 0);
  End(running);
  EXPECT_EQ(account_->pool().leased() + account_->pool().cached(), 4);
}

TEST_F(PageAccountTest, MeasuredPromptsAreComputedWhole) {
  StartAndRun(MakeRequest(Prompt(3, 10)));
  auto request = MakeRequest(Prompt(3, 10));
  request->profile = std::make_shared<AttentionProfile>(
      AttentionProfile::Shape{4, 2, 1, 202}, AttentionProfile::Options());
  account_->TakeCounts();
  EXPECT_EQ(HitOf(std::move(request)), 0);
  // It never can begin with any.
  EXPECT_EQ(account_->TakeCounts().query_tokens, 0);
}

TEST_F(PageAccountTest, WhatIsMeasuredOnceMayBeFoundAgain) {
  auto request = MakeRequest(Prompt(4, 10));
  request->measured = FollowedHeads();
  Running& running = StartAndRun(std::move(request));
  EXPECT_EQ(Restart(running), 0);
  Step(running);
  EXPECT_EQ(Restart(running, 150), 128);
  EXPECT_EQ(Restart(running, 266), 256);
}

TEST_F(PageAccountTest, ChunksOffThePatternsBordersAreNotPure) {
  auto moba = [](bool seeded) {
    auto request = MakeRequest(Prompt(6, 10));
    request->attention = Named("a", XAttentionPattern());
    request->attention.traits.chunk_border_tokens = 128;
    request->seed_was_given = seeded;
    return request;
  };
  Running* first = Start(moba(false));
  Step(*first, 128);
  Step(*first, 64);
  Step(*first, 128);
  EXPECT_EQ(HitOf(moba(true)), 128);
  EXPECT_EQ(HitOf(moba(false)), 256);  // on a border
}

TEST_F(PageAccountTest, APromptsEndThatIsTreatedApartIsItsOwn) {
  const auto tri_shape = [](int pages, int more, bool seeded) {
    auto request = MakeRequest(Prompt(pages, more));
    request->attention =
        Named("a", TriShapePattern{.window_tokens = 64, .dense_blocks = 2});
    request->seed_was_given = seeded;
    return request;
  };
  StartAndRun(tri_shape(4, 0, false));
  // Its last two blocks are dense, which those of a longer prompt are not.
  EXPECT_EQ(HitOf(tri_shape(6, 10, true)), 128);
  EXPECT_EQ(HitOf(tri_shape(6, 10, false)), 256);
  // And the other way round.
  StartAndRun(tri_shape(6, 10, true));
  EXPECT_EQ(HitOf(tri_shape(5, 1, true)), 256);
  EXPECT_EQ(HitOf(tri_shape(4, 1, true)), 192);
  EXPECT_EQ(HitOf(tri_shape(4, 0, true)), 128);
}

TEST_F(PageAccountTest, WhoIsStoppedFindsItsPromptsEndAgain) {
  const auto request = [](bool seeded) {
    auto request = MakeRequest(Prompt(4, 10));
    request->attention =
        Named("a", TriShapePattern{.window_tokens = 64, .dense_blocks = 2});
    request->seed_was_given = seeded;
    return request;
  };
  for (const bool seeded : {false, true}) {
    Make({});
    Running& first = StartAndRun(request(seeded));
    ASSERT_TRUE(account_->Grow(first.claim, 6));
    while (first.size() < 330) Step(first);
    // Others do not know what that prompt's end was.
    EXPECT_EQ(HitOf(request(seeded)), 192);
    EXPECT_EQ(Restart(first), 320);
    EXPECT_TRUE(first.claim.is_reproducible());
    Step(first);
  }
}

TEST_F(PageAccountTest, EachOfEqualAnswersFindsItsOwnPagesAgain) {
  const auto greedy = [] {
    auto request = MakeRequest(Prompt(1, 20));
    request->sampling.temperature = 0;
    return request;
  };
  std::vector<Running*> equals;
  for (int i = 0; i < 3; ++i) {
    equals.push_back(&StartAndRun(greedy()));
    ASSERT_TRUE(account_->Grow(equals[i]->claim, 6));
  }
  for (Running* const running : equals) {
    while (running->size() < 300) Step(*running);
  }
  for (Running* const running : equals) EXPECT_EQ(Restart(*running), 256);
  for (Running* const running : equals) Step(*running);
}

TEST_F(PageAccountTest, PagesThatCanBeReadAreChosenByThose) {
  // Another's second page, of no use to who computes its last token itself.
  Running& output = StartAndRun(MakeRequest(Prompt(1, 1)));
  ASSERT_TRUE(account_->Grow(output.claim, 3));
  while (output.size() < 130) Step(output);
  std::vector<TokenId> prompt = output.tokens;
  prompt.resize(128);
  Running* second = Start(MakeRequest(prompt));
  EXPECT_EQ(second->claim.hit_tokens(), 64);
  EXPECT_TRUE(second->claim.is_reproducible());
}

TEST_F(PageAccountTest, ForgottenPlansArePagesThatNobodyFinds) {
  const auto with_plan = [](const char* plan) {
    auto request = MakeRequest(Prompt(4, 10));
    request->attention = Named(plan, XAttentionPattern());
    request->attention.quality.fill(QualityClass::kTenth);
    return request;
  };
  Running* half_way = Start(with_plan("a"));
  Step(*half_way, 128);
  EXPECT_EQ(HitOf(with_plan("b")), 128);
  account_->ForgetPlan("a", next_id_);
  EXPECT_EQ(HitOf(with_plan("b")), 0);
  Step(*half_way);
  EXPECT_EQ(HitOf(with_plan("b")), 0);
  // Nor when it begins again.
  EXPECT_EQ(Restart(*half_way), 0);
  Step(*half_way);
  EXPECT_EQ(HitOf(with_plan("b")), 0);
  // Promoted again, it begins anew.
  StartAndRun(with_plan("a"));
  EXPECT_EQ(HitOf(with_plan("a")), 256);
}

TEST_F(PageAccountTest, ASequenceThatBeganBeforeAPlanWasForgottenAddsNothing) {
  auto request = MakeRequest(Prompt(4, 10));
  request->attention = Named("a", XAttentionPattern());
  Running* running = Start(std::move(request));
  account_->ForgetPlan("a", next_id_);
  Step(*running);
  EXPECT_EQ(account_->pool().index().entered(), 0);
}

TEST_F(PageAccountTest, PatternsOfRequestsAreKeptUpToALimit) {
  for (int i = 0; i < 70; ++i) {
    auto request = MakeRequest(Prompt(1, 1 + i));
    request->attention = Named("", SinkWindowPattern{64, 128 + i});
    request->seed_was_given = true;
    Running& running = StartAndRun(std::move(request));
    const PageId page = running.claim.lease().pages()[0];
    EXPECT_EQ(account_->pool().index().contains(page), i < 64) << i;
    End(running);
  }
}

TEST_F(PageAccountTest, WhatFailedIsNotFoundNorWhatStandsOnIt) {
  Running& first = StartAndRun(MakeRequest(Prompt(2, 10)));
  Running& bad = StartAndRun(MakeRequest(Prompt(4, 10)));
  ASSERT_EQ(bad.claim.hit_tokens(), 128);
  Running& behind = StartAndRun(MakeRequest(Prompt(6, 10)));
  ASSERT_EQ(behind.claim.hit_tokens(), 256);
  Fail(bad);
  EXPECT_EQ(account_->pool().index().entered(), 2);
  EXPECT_EQ(HitOf(MakeRequest(Prompt(6, 10))), 128);
  EXPECT_TRUE(
      account_->pool().index().contains(first.claim.lease().pages()[1]));
}

TEST_F(PageAccountTest, WhatAnotherOneFailedBehindIsDoubted) {
  const auto begin = [&](int last) {
    Running* const running = Start(MakeRequest(Prompt(4, 10, last)));
    EXPECT_EQ(running->claim.hit_tokens(), 256);
    return running;
  };
  StartAndRun(MakeRequest(Prompt(4, 10)));
  Fail(*begin('x'));
  EXPECT_EQ(account_->pool().index().entered(), 4);
  // One that runs well shows that it was not the prompt's beginning.
  Step(*begin('w'));
  Fail(*begin('x'));
  EXPECT_EQ(account_->pool().index().entered(), 4);
  Fail(*begin('y'));
  EXPECT_EQ(account_->pool().index().entered(), 0);
  // Pages that come to hold others are not doubted for that.
  running_.clear();
  StartAndRun(MakeRequest(Prompt(4, 10)));
  Fail(*begin('x'));
  EXPECT_EQ(account_->pool().index().entered(), 4);
}

TEST_F(PageAccountTest, WhoRunsWellAtFirstVouchesForNothingIfItFails) {
  StartAndRun(MakeRequest(Prompt(4, 10)));
  for (const int entered : {4, 0}) {
    Running& bad = StartAndRun(MakeRequest(Prompt(4, 20, 'x')));
    ASSERT_EQ(bad.claim.hit_tokens(), 256);
    Fail(bad);
    EXPECT_EQ(account_->pool().index().entered(), entered);
  }
}

TEST_F(PageAccountTest, TooFewPagesLeaveEverythingAsItWas) {
  Running& first = StartAndRun(MakeRequest(Prompt(30)));
  EXPECT_EQ(Start(MakeRequest(Prompt(30, 64 * 20))), nullptr);
  CheckInvariants();
  EXPECT_EQ(account_->pool().leased(), 30);
  EXPECT_FALSE(account_->Grow(first.claim, 41));
  EXPECT_TRUE(account_->Grow(first.claim, 40));
}

TEST_F(PageAccountTest, PagesThatAPromptHitsAreNotEvictedForItsOthers) {
  Make({.pages = 8});
  End(StartAndRun(MakeRequest(Prompt(4, 10))));
  End(StartAndRun(MakeRequest(Prompt(0, 150, 'q'))));
  ASSERT_EQ(account_->pool().cached(), 6);
  Running* running = Start(MakeRequest(Prompt(4, 150, 'y')));
  ASSERT_NE(running, nullptr);
  EXPECT_EQ(running->claim.hit_tokens(), 256);
  Step(*running);
  EXPECT_EQ(account_->TakeCounts().evicted_pages, 1);
}

TEST_F(PageAccountTest, AnswersToOnePromptShareItsPagesAndWriteApart) {
  for (const int more : {0, 1, 36, 63}) {
    Make({});
    Running& first = StartAndRun(MakeRequest(Prompt(2, more)));
    ASSERT_TRUE(account_->Grow(first.claim, 5));
    const int prompt = first.prompt_tokens();

    auto second = std::make_unique<Running>();
    second->id = next_id_++;
    second->request = MakeRequest(Prompt(2, more));
    second->tokens = second->request->prompt;
    std::vector<PageCopy> copies;
    auto claim =
        account_->StartSibling(first.claim, *second->request, 5, copies);
    ASSERT_TRUE(claim.has_value());
    second->claim = std::move(*claim);
    EXPECT_EQ(second->claim.hit_tokens(), prompt - 1);
    second->computed = prompt - 1;
    EXPECT_EQ(copies.size(), (prompt - 1) % kPageTokens == 0 ? 0 : 1);
    const int shared = (prompt - 1) / kPageTokens;
    EXPECT_EQ(account_->pool().leased(), 10 - shared);
    running_.push_back(std::move(second));

    Running& sibling = *running_.back();
    Step(first);  // it may be ahead by then
    Step(sibling, 0, copies);
    sibling.tokens.back() = 'Q';  // another draw
    for (int i = 0; i < 100; ++i) {
      Step(first);
      Step(sibling);
    }
    CheckInvariants();
    End(first);
    for (int i = 0; i < 20; ++i) Step(sibling);
  }
}

TEST_F(PageAccountTest, RandomTrafficDrawsWhatEachSequenceWouldAlone) {
  Make({.pages = 24, .index = {.hash = [](int64_t before, auto tokens) {
                       return static_cast<uint64_t>(before + tokens[1] / 2) % 7;
                     }}});
  std::mt19937 random(1);
  const auto draw = [&](int below) {
    return static_cast<int>(random() % below);
  };
  int64_t hits = 0;
  for (int step = 0; step < 20'000; ++step) {
    const int what = draw(10);
    if (what < 3 && running_.size() < 6) {
      auto request = MakeRequest(Prompt(draw(5), 1 + draw(100), 'x' + draw(3)));
      request->cache_salt = draw(2) == 0 ? "a" : "b";
      request->seed_was_given = draw(2) == 0;
      if (draw(2) == 0) {
        request->attention = Named(draw(2) == 0 ? "p" : "q", QuestPattern());
      }
      const Running* running = Start(std::move(request));
      if (running != nullptr) hits += running->claim.hit_tokens();
    } else if (!running_.empty()) {
      Running& running = *running_[draw(static_cast<int>(running_.size()))];
      if (what == 9 || running.size() > 600) {
        if (draw(20) == 0) account_->Discard(running.claim);
        End(running);
      } else if (running.size() - running.computed > kPageTokens &&
                 draw(2) == 0) {
        Step(running, kPageTokens - running.computed % kPageTokens);
      } else if (account_->Grow(running.claim, PagesFor(running.size()))) {
        Step(running);
      } else {
        End(running);
      }
    }
    if (draw(500) == 0) account_->ForgetPlan("p", next_id_);
    if (HasFatalFailure()) return;
    if (step % 16 == 0) CheckInvariants();
  }
  EXPECT_GT(hits, 10'000);
  EXPECT_GT(account_->TakeCounts().evicted_pages, 100);
}

}  // namespace
}  // namespace sparseserve
