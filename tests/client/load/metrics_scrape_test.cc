#include "client/load/metrics_scrape.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/load/scripted_metrics.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);

TEST(MetricsScrapeTest, ReturnsTheBody) {
  const std::string body(100'000, 'x');
  ScriptedMetrics metrics({ScriptedMetrics::Ok(body)});
  const auto scrape = ScrapeMetrics(metrics.address(), kTimeout);
  ASSERT_TRUE(scrape.ok()) << scrape.status();
  EXPECT_EQ(*scrape, body);
}

TEST(MetricsScrapeTest, SaysWhatAnsweredInstead) {
  ScriptedMetrics metrics({"HTTP/1.1 404 Not Found\r\n\r\nno", "hello"});
  for (const char* line : {"HTTP/1.1 404 Not Found", "hello"}) {
    const auto scrape = ScrapeMetrics(metrics.address(), kTimeout);
    EXPECT_EQ(scrape.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(scrape.status().message()),
                HasSubstr("no metrics at " + metrics.address() +
                          ": the reply begins with \"" + line));
  }
}

TEST(MetricsScrapeTest, RefusesWhatIsNoAddress) {
  for (const char* address : {"", "localhost", ":9090", "localhost:"}) {
    EXPECT_EQ(ScrapeMetrics(address, kTimeout).status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
  EXPECT_EQ(ScrapeMetrics("127.0.0.1:1", kTimeout).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sparseserve
