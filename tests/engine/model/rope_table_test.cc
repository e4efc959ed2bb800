#include "engine/model/rope_table.h"

#include <cmath>

#include "engine/backend/create_backend.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(RopeTableTest, AnglesFallGeometricallyFromPairToPair) {
  const auto backend = CreateBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto table = BuildRopeTable(**backend, 9000, 6, 1000.0);
  ASSERT_TRUE(table.ok()) << table.status();
  // base^(-2 i / 6) for base 1000.
  const double frequencies[] = {1.0, 0.1, 0.01};
  for (const int position : {0, 1, 63, 8999}) {
    for (int pair = 0; pair < 3; ++pair) {
      const double angle = position * frequencies[pair];
      EXPECT_NEAR(table->cosines.as<float>()[position * 3 + pair],
                  std::cos(angle), 1e-7);
      EXPECT_NEAR(table->sines.as<float>()[position * 3 + pair],
                  std::sin(angle), 1e-7);
    }
  }
}

}  // namespace
}  // namespace sparseserve
