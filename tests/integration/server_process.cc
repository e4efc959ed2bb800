#include "tests/integration/server_process.h"

#include <cstdlib>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/testing/default_model.h"
#include "tests/testing/scrape.h"

namespace sparseserve::testing {
namespace {

std::vector<std::string> Arguments(const std::vector<std::string>& flags) {
  std::vector<std::string> arguments = {
      SPARSESERVE_SERVER_BINARY, "--model=" + DefaultModelPath(),
      "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
      "--kv_cache_bytes=512MiB"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return arguments;
}

// The number behind the last colon of `key`'s value.
int PortOf(const std::string& line, const std::string& key) {
  const size_t value = line.find(key);
  if (value == std::string::npos) return 0;
  return std::atoi(line.c_str() + line.find(':', value) + 1);
}

}  // namespace

ServerProcess::ServerProcess(const std::vector<std::string>& flags)
    : process_(Arguments(flags)) {
  const std::string line = process_.WaitForLine("listening grpc=");
  port_ = PortOf(line, "grpc=");
  metrics_port_ = PortOf(line, "metrics=");
  EXPECT_GT(port_, 0) << process_.Output();
  EXPECT_GT(metrics_port_, 0);
  // "KV 512 MiB in 182 pages of 64 tokens".
  const std::string memory = process_.WaitForLine(" pages of ");
  const size_t pages = memory.rfind(" in ", memory.find(" pages of "));
  if (pages != std::string::npos) pages_ = std::atoi(&memory[pages + 4]);
  EXPECT_GT(pages_, 0) << memory;
}

int ServerProcess::health_port() const {
  return PortOf(process_.WaitForLine("health checks on"), " on ");
}

double ServerProcess::Series(const std::string& name,
                             std::initializer_list<std::string> labels) const {
  const auto value = SumOfSeries(Scrape(metrics_port_), name, labels);
  EXPECT_TRUE(value.has_value()) << name;
  return value.value_or(-1);
}

void ServerProcess::WaitForSeries(const std::string& name,
                                  std::initializer_list<std::string> labels,
                                  double value) const {
  const absl::Time give_up = absl::Now() + absl::Minutes(2);
  while (Series(name, labels) != value) {
    ASSERT_LT(absl::Now(), give_up)
        << name << " is " << Series(name, labels) << ", not " << value;
    absl::SleepFor(absl::Milliseconds(5));
  }
}

void ServerProcess::ExpectIdle() const {
  WaitForSeries("sparseserve_requests_running", {}, 0);
  WaitForSeries("sparseserve_requests_waiting", {}, 0);
  const std::string pages = "sparseserve_kv_cache_pages";
  EXPECT_EQ(Series(pages, {"state=\"used\""}), 0);
  EXPECT_EQ(
      Series(pages, {"state=\"free\""}) + Series(pages, {"state=\"cached\""}),
      pages_);
  WaitForSeries("sparseserve_stream_buffered_bytes", {}, 0);
  EXPECT_EQ(Series("sparseserve_metrics_clamped_total", {}), 0);
}

FailedStart RunServer(const std::vector<std::string>& flags) {
  std::vector<std::string> arguments = {SPARSESERVE_SERVER_BINARY};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  ChildProcess process(arguments);
  FailedStart result;
  result.status = process.Wait();
  process.WaitForLine("no such line: waits for the end of the output");
  result.output = process.Output();
  return result;
}

}  // namespace sparseserve::testing
