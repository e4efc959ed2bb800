// A router that pings its idle connections keeps them.

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/server_fixture.h"

namespace sparseserve {
namespace {

using testing::ServerFixture;
using testing::StreamRequest;
using testing::TestCall;
using testing::TestChannel;
using testing::TextOptions;

class KeepaliveTest : public ServerFixture {};

TEST_F(KeepaliveTest, AnIdlePingerKeepsItsConnection) {
  Start();
  TestChannel pinging(server().port(), {.idle_ping = absl::Seconds(11)});
  TestCall first(pinging, testing::kStreamGeneratePath,
                 StreamRequest(TextOptions("hello", 2)));
  EXPECT_EQ(ReadAll(first).text.size(), 2);
  // Servers commonly close the connection at the third idle ping.
  EXPECT_TRUE(pinging.StaysConnected(absl::Seconds(48)));
  TestCall second(pinging, testing::kStreamGeneratePath,
                  StreamRequest(TextOptions("hello", 2)));
  EXPECT_EQ(ReadAll(second).text.size(), 2);
}

}  // namespace
}  // namespace sparseserve
