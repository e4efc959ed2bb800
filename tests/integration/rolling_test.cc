// Replicas that are replaced one after the other, behind a client that takes
// each in turn with the published service config.

#include <atomic>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "client/client.h"
#include "client/error_details.h"
#include "engine/base/mutex.h"
#include "engine/base/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/server_process.h"

namespace sparseserve {
namespace {

using ::testing::IsEmpty;
using testing::ServerProcess;

// Calls again and again, from several threads.
class Callers {
 public:
  Callers(Client& client, int threads) {
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([this, &client] {
        while (!stop_) Call(client);
      });
    }
  }
  ~Callers() { Stop(); }

  // Returns once so many more calls have ended.
  void WaitForCalls(int more) {
    for (const int target = ended_ + more; ended_ < target;) {
      absl::SleepFor(absl::Milliseconds(10));
    }
  }
  void Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  std::vector<std::string> failures() {
    MutexLock lock(mu_);
    return failures_;
  }

 private:
  void Call(Client& client) {
    v1::GenerateOptions options;
    options.set_text("Once upon a time");
    options.mutable_stop()->set_max_output_tokens(8);
    options.mutable_stop()->set_ignore_eos(true);
    int tokens = 0;
    const auto report =
        client.Generate(options,
                        [&tokens](const v1::OutputDelta& output) {
                          tokens += output.token_ids_size();
                          return true;
                        },
                        {.timeout = absl::Minutes(2)});
    if (!report.ok() || tokens != 8) {
      MutexLock lock(mu_);
      failures_.push_back(
          StrCat(tokens, " tokens: ", DescribeError(report.status())));
    }
    ++ended_;
  }

  std::atomic<bool> stop_{false};
  std::atomic<int> ended_{0};
  Mutex mu_;
  std::vector<std::string> failures_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> threads_;
};

TEST(RollingTest, ReplacingReplicasOneByOneFailsNoCall) {
  std::vector<std::unique_ptr<ServerProcess>> replicas;
  for (int i = 0; i < 2; ++i) {
    replicas.push_back(std::make_unique<ServerProcess>(
        std::vector<std::string>{"--threads=1"}));
  }
  auto client =
      Client::Connect({.server = StrCat("ipv4:127.0.0.1:", replicas[0]->port(),
                                        ",127.0.0.1:", replicas[1]->port())});
  ASSERT_TRUE(client.ok()) << client.status();
  Callers callers(**client, 4);
  for (auto& replica : replicas) {
    callers.WaitForCalls(8);
    const int port = replica->port();
    replica->process().Send(SIGTERM);
    EXPECT_EQ(replica->process().Wait(), 0);
    callers.WaitForCalls(8);
    replica = std::make_unique<ServerProcess>(std::vector<std::string>{
        "--threads=1", StrCat("--listen=127.0.0.1:", port)});
    // Until it is used again: only then may the other one go.
    const std::string finished = "sparseserve_requests_finished_total";
    while (replica->Series(finished, {}) < 4) {
      absl::SleepFor(absl::Milliseconds(10));
    }
  }
  callers.Stop();
  EXPECT_THAT(callers.failures(), IsEmpty());
}

}  // namespace
}  // namespace sparseserve
