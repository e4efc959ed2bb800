#include "engine/model/rope_table.h"

#include <cmath>
#include <vector>

#include "engine/backend/create_backend.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(RopeTableTest, AnglesFallGeometricallyFromPairToPair) {
  const auto backend = CreateBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto table = BuildRopeTable(**backend, 9000, 6, {.base = 1000});
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

// The angles that a table holds at position 1, where they are the frequencies.
std::vector<double> FrequenciesOf(const RopeFrequencies& frequencies) {
  const auto backend = CreateBackend({.threads = 1});
  const auto table = BuildRopeTable(**backend, 2, 8, frequencies);
  std::vector<double> found;
  for (int pair = 0; pair < 4; ++pair) {
    found.push_back(std::atan2(table->sines.as<float>()[4 + pair],
                               table->cosines.as<float>()[4 + pair]));
  }
  return found;
}

constexpr double kRoot10 = 3.16227766016837933;

TEST(RopeTableTest, LinearScalingDividesEveryFrequency) {
  const std::vector<double> found = FrequenciesOf(
      {.base = 100, .scaling = RopeFrequencies::Linear{.factor = 4}});
  const double wanted[] = {0.25, 0.25 / kRoot10, 0.025, 0.025 / kRoot10};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(found[i], wanted[i], 1e-7);
}

TEST(RopeTableTest, DivisorsAreOfEachFrequency) {
  const std::vector<double> found = FrequenciesOf(
      {.base = 100, .scaling = RopeFrequencies::Divisors{{1, 2, 4, 8}}});
  const double wanted[] = {1, 0.5 / kRoot10, 0.025, 0.0125 / kRoot10};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(found[i], wanted[i], 1e-7);
}

TEST(RopeTableTest, Llama3ScalesLongWavelengthsOnly) {
  // Wavelengths 6.3, 19.9, 62.8 and 198.7; those below 100 / 8 stay, those
  // above 100 / 2 are divided.
  const std::vector<double> found = FrequenciesOf(
      {.base = 100,
       .scaling = RopeFrequencies::Llama3{.factor = 4,
                                          .low_factor = 2,
                                          .high_factor = 8,
                                          .original_context_tokens = 100}});
  const double wavelength = 2 * 3.14159265358979 * kRoot10;
  const double kept = (100 / wavelength - 2) / 6;
  const double between = ((1 - kept) / 4 + kept) / kRoot10;
  const double wanted[] = {1, between, 0.025, 0.025 / kRoot10};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(found[i], wanted[i], 1e-7);
}

}  // namespace
}  // namespace sparseserve
