#include "server/console/console_json.h"

#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using nlohmann::json;

absl::Time At(double seconds) {
  return absl::UnixEpoch() + absl::Seconds(seconds);
}

TEST(ConsoleJsonTest, FiguresAreThoseOfStateTotalsAndHistory) {
  ServiceState state;
  state.ready = true;
  state.running = 2;
  state.used_pages = 3;
  state.memory = {{"cpu", "kv", 1e9}};
  state.start_time_seconds = 1000;
  state.build["version"] = "1.2.3";
  ServiceTotals totals;
  totals.generation_tokens = 100;
  totals.time_to_first_token = {{.1, .2}, {0, 4, 0}, .6};
  totals.targets["total"] = {3, 1};
  totals.plans["fast"].requests = {7, 8};
  totals.phases[0].computed_blocks = 1;
  totals.phases[0].skipped_blocks = 3;
  ServiceHistory history;
  history.Add(At(0), state, totals);
  ServiceTotals later = totals;
  later.generation_tokens += 20;
  later.phases[1].fallbacks["policy"] = 2;
  history.Add(At(10), state, later);

  const json report =
      json::parse(ConsoleJson(state, later, history, At(12), At(1500)));
  EXPECT_EQ(report["unix_time"], 1500);
  EXPECT_EQ(report["uptime_seconds"], 500);
  EXPECT_EQ(report["build"]["version"], "1.2.3");
  EXPECT_EQ(report["now"]["ready"], true);
  EXPECT_EQ(report["now"]["draining"], false);
  EXPECT_EQ(report["now"]["running"], 2);
  EXPECT_EQ(report["now"]["kv_pages"]["used"], 3);
  EXPECT_EQ(report["now"]["memory"][0]["bytes"], 1e9);
  EXPECT_EQ(report["minute"]["seconds"], 12);
  EXPECT_EQ(report["minute"]["generation_tokens"], 20);
  EXPECT_EQ(report["all"]["seconds"], 500);
  EXPECT_EQ(report["all"]["generation_tokens"], 120);
  EXPECT_EQ(report["all"]["time_to_first_token"]["count"], 4);
  EXPECT_NEAR(report["all"]["time_to_first_token"]["p50"], .15, 1e-12);
  EXPECT_EQ(report["all"]["targets"]["total"]["met"], 3);
  EXPECT_EQ(report["all"]["plans"]["fast"]["decode_requests"], 8);
  EXPECT_EQ(report["all"]["phases"]["prefill"]["density"], .25);
  EXPECT_EQ(report["recent_fallbacks"][0]["reason"], "policy");
  EXPECT_EQ(report["recent_fallbacks"][0]["seconds_ago"], 2);
  EXPECT_EQ(report["history"]["running"], json({2, 2}));
  EXPECT_EQ(report["history"]["output_tokens_per_second"][1], 2);
}

TEST(ConsoleJsonTest, WhatWasNotMeasuredIsNull) {
  ServiceHistory history;
  history.Add(At(0), {}, {});
  const json report = json::parse(ConsoleJson({}, {}, history, At(0), At(0)));
  EXPECT_TRUE(report["all"]["time_to_first_token"]["p50"].is_null());
  EXPECT_TRUE(report["all"]["phases"]["decode"]["density"].is_null());
  EXPECT_TRUE(report["history"]["first_token_p95"][0].is_null());
  EXPECT_TRUE(report["all"]["plans"].is_object());
  EXPECT_TRUE(report["recent_fallbacks"].is_array());
  EXPECT_TRUE(report["all"]["finished"].is_object());
}

TEST(ConsoleJsonTest, PlotsHaveFourDigits) {
  ServiceHistory history;
  ServiceState state;
  state.running = 123456;
  history.Add(At(0), state, {});
  ServiceTotals totals;
  totals.generation_tokens = 1;
  history.Add(At(3), {}, totals);
  const json points =
      json::parse(ConsoleJson({}, {}, history, At(0), At(0)))["history"];
  EXPECT_NEAR(points["running"][0], 123500, 1e-6);
  EXPECT_EQ(points["running"][1], 0);
  EXPECT_NEAR(points["output_tokens_per_second"][1], .3333, 1e-12);
}

TEST(ConsoleJsonTest, BytesThatAreNoTextDoNotEndIt) {
  ServiceState state;
  state.model["model_name"] = "a\xff\"</script>";
  const json report =
      json::parse(ConsoleJson(state, {}, ServiceHistory(), At(0), At(0)));
  EXPECT_EQ(report["model"]["model_name"], "a\xef\xbf\xbd\"</script>");
}

}  // namespace
}  // namespace sparseserve
