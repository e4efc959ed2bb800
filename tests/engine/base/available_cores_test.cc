#include "engine/base/available_cores.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

using testing::TestFolder;

TEST(AvailableCoresTest, RoundsTheQuotaOfVersion2Up) {
  const struct {
    const char* text;
    int cores;
  } cases[] = {{"150000 100000\n", 2},
               {"200000 100000\n", 2},
               {"1000 100000\n", 1},
               {"max 100000\n", 0},
               {"", 0},
               {"100000", 0},
               {"100000 0\n", 0},
               {"9223372036854775807 1\n", 2147483647}};
  for (const auto& row : cases) {
    TestFolder root;
    root.Write("cpu.max", row.text);
    EXPECT_EQ(QuotaCores(root.path()), row.cores) << row.text;
  }
}

TEST(AvailableCoresTest, RoundsTheQuotaOfVersion1Up) {
  TestFolder root;
  root.Write("cpu/cpu.cfs_quota_us", "250000\n");
  EXPECT_EQ(QuotaCores(root.path()), 0);  // no period
  root.Write("cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(QuotaCores(root.path()), 3);
  root.Write("cpu/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(QuotaCores(root.path()), 0);
}

TEST(AvailableCoresTest, ThisMachineHasSome) {
  EXPECT_EQ(QuotaCores("/nonexistent"), 0);
  EXPECT_GE(AvailableCores(), 1);
}

}  // namespace
}  // namespace sparseserve
