#include "engine/base/available_memory.h"

#include <limits>

#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

TEST(AvailableMemoryTest, ReadsTheSystemsEstimate) {
  EXPECT_EQ(ParseMemAvailable("MemTotal:       16000000 kB\n"
                              "MemFree:          100000 kB\n"
                              "MemAvailable:    8000001 kB\n"
                              "Buffers:               1 kB\n"),
            int64_t{8000001} * 1024);
}

TEST(AvailableMemoryTest, TextWithoutTheEstimateGivesNone) {
  EXPECT_LT(ParseMemAvailable(""), 0);
  EXPECT_LT(ParseMemAvailable("MemTotal: 5 kB\n"), 0);
  EXPECT_LT(ParseMemAvailable("MemAvailable: lots\n"), 0);
}

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

TEST(AvailableMemoryTest, CountsTheCacheOfAVersion2GroupAsRoom) {
  testing::TestFolder root;
  EXPECT_EQ(GroupRoomBytes(root.path()), kNoLimit);
  root.Write("memory.max", "max\n");
  root.Write("memory.current", "700\n");
  EXPECT_EQ(GroupRoomBytes(root.path()), kNoLimit);
  root.Write("memory.max", "1000\n");
  EXPECT_EQ(GroupRoomBytes(root.path()), 300);
  root.Write("memory.stat", "anon 500\ninactive_file 150\nactive_file 40\n");
  EXPECT_EQ(GroupRoomBytes(root.path()), 490);
  root.Write("memory.max", "400\n");
  EXPECT_EQ(GroupRoomBytes(root.path()), 0);
}

TEST(AvailableMemoryTest, CountsTheCacheOfAVersion1GroupAsRoom) {
  testing::TestFolder root;
  root.Write("memory/memory.limit_in_bytes", "1000\n");
  root.Write("memory/memory.usage_in_bytes", "900\n");
  root.Write("memory/memory.stat",
             "inactive_file 1\ntotal_inactive_file 200\n"
             "total_active_file 5000");
  EXPECT_EQ(GroupRoomBytes(root.path()), 1000);
}

TEST(AvailableMemoryTest, ThisMachineHasSome) {
  EXPECT_GT(AvailableMemoryBytes(), 0);
}

}  // namespace
}  // namespace sparseserve
