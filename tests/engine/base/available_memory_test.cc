#include "engine/base/available_memory.h"

#include "gtest/gtest.h"

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

TEST(AvailableMemoryTest, ThisMachineHasSome) {
  EXPECT_GT(AvailableMemoryBytes(), 0);
}

}  // namespace
}  // namespace sparseserve
