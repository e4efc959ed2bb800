#include "server/scheduling/request_queue.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kForever = absl::Minutes(9);
const absl::Time kNow = absl::FromUnixSeconds(1000);

std::unique_ptr<Request> MakeRequest(std::string id, int prompt_tokens = 1) {
  auto request = std::make_unique<Request>();
  request->id = std::move(id);
  request->prompt.assign(prompt_tokens, 7);
  return request;
}

Refusal Push(RequestQueue& queue, std::string id, int prompt_tokens = 1) {
  std::unique_ptr<Request> request = MakeRequest(std::move(id), prompt_tokens);
  const Refusal refusal = queue.Push(request);
  EXPECT_EQ(request == nullptr, refusal == Refusal::kNone);
  return refusal;
}

std::vector<std::string> TakeIds(RequestQueue& queue) {
  std::vector<std::string> ids;
  for (const auto& request : queue.TakeAll()) ids.push_back(request->id);
  return ids;
}

TEST(RequestQueueTest, GivesOutInOrderOfArrival) {
  RequestQueue queue({});
  Push(queue, "a");
  Push(queue, "b");
  EXPECT_THAT(TakeIds(queue), ElementsAre("a", "b"));
  EXPECT_THAT(TakeIds(queue), IsEmpty());
}

TEST(RequestQueueTest, RefusesMoreThanItsBoundOfRequests) {
  RequestQueue queue({.max_requests = 2});
  EXPECT_EQ(Push(queue, "a"), Refusal::kNone);
  EXPECT_EQ(Push(queue, "b"), Refusal::kNone);
  EXPECT_EQ(Push(queue, "c"), Refusal::kQueueFull);
  EXPECT_EQ(queue.waiting(), 2);
}

TEST(RequestQueueTest, TellsBeforehandWhoseQuotaIsUsedUp) {
  RequestQueue queue({.per_caller = {.max_requests = 1}});
  EXPECT_EQ(queue.WouldRefuse("a", 5), Refusal::kNone);
  std::unique_ptr<Request> request = MakeRequest("1");
  request->caller = "a";
  EXPECT_EQ(queue.Push(request), Refusal::kNone);
  EXPECT_EQ(queue.WouldRefuse("a", 5), Refusal::kQuota);
  EXPECT_EQ(queue.WouldRefuse("b", 5), Refusal::kNone);
  const auto taken = queue.TakeAll();
  queue.Dropped(*taken[0]);
  EXPECT_EQ(queue.WouldRefuse("a", 5), Refusal::kQuota);
  queue.Finished(*taken[0]);
  EXPECT_EQ(queue.WouldRefuse("a", 5), Refusal::kNone);
}

TEST(RequestQueueTest, WhatIsDroppedMakesNobodyComeBackSooner) {
  RequestQueue queue({.max_requests = 100});
  for (int i = 0; i < 90; ++i) Push(queue, "a");
  const auto held = queue.TakeAll();
  // Two a second for half a minute, of whom new ones take the place.
  for (int i = 0; i < 60; ++i) {
    queue.Started(*held[i], kNow + absl::Seconds(0.5 * i));
    Push(queue, "b");
  }
  const absl::Time now = kNow + absl::Seconds(30);
  const auto before = queue.RetryAfter(now);
  for (int i = 0; i < 3000; ++i) {
    std::unique_ptr<Request> refused = MakeRequest("c");
    ASSERT_EQ(queue.Push(refused), Refusal::kNone);
    queue.Dropped(*queue.TakeAll().back());
  }
  EXPECT_EQ(queue.waiting(), 90);
  EXPECT_EQ(queue.RetryAfter(now), before);
}

TEST(RequestQueueTest, TellsBeforehandWhatItWouldRefuse) {
  RequestQueue queue({.max_requests = 2, .max_tokens = 10});
  EXPECT_EQ(queue.WouldRefuse("", 1), Refusal::kNone);
  Push(queue, "a", 20);
  EXPECT_EQ(queue.WouldRefuse("", 1), Refusal::kQueueFull);
  queue.Started(*MakeRequest("a", 20), kNow);
  Push(queue, "b", 1);
  EXPECT_EQ(queue.WouldRefuse("", 1), Refusal::kNone);
  Push(queue, "c", 1);
  EXPECT_EQ(queue.WouldRefuse("", 1), Refusal::kQueueFull);
  queue.StartDraining();
  EXPECT_EQ(queue.WouldRefuse("", 1), Refusal::kDraining);
}

TEST(RequestQueueTest, RefusesMoreThanItsBoundOfTokens) {
  RequestQueue queue({.max_tokens = 10});
  EXPECT_EQ(Push(queue, "a", 6), Refusal::kNone);
  EXPECT_EQ(Push(queue, "b", 5), Refusal::kQueueFull);
  EXPECT_EQ(Push(queue, "c", 4), Refusal::kNone);
}

TEST(RequestQueueTest, TakesOneLongRequestWhenNothingWaits) {
  RequestQueue queue({.max_tokens = 10});
  EXPECT_EQ(Push(queue, "a", 11), Refusal::kNone);
  EXPECT_EQ(Push(queue, "b", 1), Refusal::kQueueFull);
}

TEST(RequestQueueTest, RefusesWhatExceedsTheCallersQuotaUntilSomeEnded) {
  RequestQueue queue({.per_caller = {.max_requests = 1}});
  const auto push = [&queue] {
    std::unique_ptr<Request> request = MakeRequest("a");
    request->caller = "somebody";
    return queue.Push(request);
  };
  EXPECT_EQ(push(), Refusal::kNone);
  EXPECT_EQ(push(), Refusal::kQuota);
  EXPECT_EQ(Push(queue, "b"), Refusal::kNone);
  const std::vector<std::unique_ptr<Request>> taken = queue.TakeAll();
  queue.Started(*taken[0], kNow);
  EXPECT_EQ(push(), Refusal::kQuota);
  queue.Finished(*taken[0]);
  EXPECT_EQ(push(), Refusal::kNone);
}

TEST(RequestQueueTest, AsksToComeBackWhenSomeHaveGone) {
  RequestQueue queue({});
  EXPECT_EQ(queue.RetryAfter(kNow), std::nullopt);
  for (int i = 0; i < 100; ++i) Push(queue, "a");
  const std::vector<std::unique_ptr<Request>> taken = queue.TakeAll();
  // Two a second for 20 s leave 60.
  for (int i = 0; i < 40; ++i) {
    queue.Started(*taken[i], kNow + absl::Seconds(0.5 * i));
  }
  const auto after = queue.RetryAfter(kNow + absl::Seconds(20));
  ASSERT_TRUE(after.has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*after), 60 / 4.0 / 2, 1);
}

TEST(RequestQueueTest, RequestsCountUntilTheyStart) {
  RequestQueue queue({.max_requests = 1});
  Push(queue, "a", 3);
  const std::vector<std::unique_ptr<Request>> taken = queue.TakeAll();
  EXPECT_EQ(queue.waiting(), 1);
  EXPECT_EQ(Push(queue, "b"), Refusal::kQueueFull);
  queue.Started(*taken[0], kNow);
  EXPECT_EQ(queue.waiting(), 0);
  EXPECT_EQ(Push(queue, "b"), Refusal::kNone);
}

TEST(RequestQueueTest, StartedRequestsMakeRoomForTheirTokens) {
  RequestQueue queue({.max_tokens = 10});
  Push(queue, "a", 6);
  Push(queue, "b", 4);
  const std::vector<std::unique_ptr<Request>> taken = queue.TakeAll();
  queue.Started(*taken[0], kNow);
  EXPECT_EQ(Push(queue, "c", 7), Refusal::kQueueFull);
  EXPECT_EQ(Push(queue, "d", 6), Refusal::kNone);
}

TEST(RequestQueueTest, WhileDrainingRefusesAndGivesOutWhatItHas) {
  RequestQueue queue({});
  Push(queue, "a");
  queue.StartDraining();
  EXPECT_EQ(Push(queue, "b"), Refusal::kDraining);
  EXPECT_THAT(TakeIds(queue), ElementsAre("a"));
}

TEST(RequestQueueTest, ArrivalEndsTheWait) {
  RequestQueue queue({});
  std::thread caller([&] { Push(queue, "a"); });
  while (TakeIds(queue).empty()) queue.WaitForWork(kForever);
  caller.join();
}

TEST(RequestQueueTest, WakeEndsTheWaitThatFollows) {
  RequestQueue queue({});
  queue.Wake();
  queue.WaitForWork(kForever);
}

TEST(RequestQueueTest, WakeEndsTheWaitUnderWay) {
  RequestQueue queue({});
  std::atomic<bool> cancelled = false;
  std::thread caller([&] {
    cancelled = true;
    queue.Wake();
  });
  while (!cancelled) queue.WaitForWork(kForever);
  caller.join();
}

TEST(RequestQueueTest, WaitsNoLongerThanItsTimeout) {
  RequestQueue queue({});
  queue.WaitForWork(absl::Milliseconds(1));
  EXPECT_EQ(queue.waiting(), 0);
}

TEST(RequestQueueTest, ManyCallersLoseNothingAndKeepTheirOrder) {
  constexpr int kCallers = 4;
  constexpr int kEach = 500;
  RequestQueue queue({.max_requests = 16, .max_tokens = 40});
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&queue, caller] {
      for (int i = 0; i < kEach; ++i) {
        std::unique_ptr<Request> request =
            MakeRequest(absl::StrCat(caller), 1 + i % 5);
        request->sampling.seed = i;
        while (queue.Push(request) != Refusal::kNone) {
          std::this_thread::yield();
        }
      }
    });
  }
  std::vector<uint64_t> next(kCallers, 0);
  for (int taken = 0; taken < kCallers * kEach;) {
    queue.WaitForWork(kForever);
    EXPECT_LE(queue.waiting(), 16);
    for (const auto& request : queue.TakeAll()) {
      EXPECT_EQ(request->sampling.seed, next[std::stoi(request->id)]++);
      queue.Started(*request, kNow);
      ++taken;
    }
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(queue.waiting(), 0);
}

}  // namespace
}  // namespace sparseserve
