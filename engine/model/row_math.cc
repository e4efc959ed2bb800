#include "engine/model/row_math.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>

namespace sparseserve {
namespace {

// Independent partial results per pass: enough for any vector width.
constexpr size_t kLanes = 16;
using Lanes = std::array<float, kLanes>;

// exp for x <= 0: x = n ln 2 + r with |r| <= ln 2 / 2 (the reduction of Cody
// and Waite, ln 2 in two parts), exp(r) by its Taylor series to the seventh
// power, whose remainder is below 6e-9, and 2^n by the exponent's bits.
inline float ExpOfNegative(float x) {
  constexpr float kLeast = -87.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
  constexpr float kRound = 12582912.0f;
  // The bits of negative floats ascend as integers while the floats fall. All
  // ones if x >= kLeast, else 0; without the branch that would keep the loop
  // from being vectorised.
  constexpr int32_t kSign = std::numeric_limits<int32_t>::min();
  constexpr int32_t kLeastBits = std::bit_cast<int32_t>(kLeast) & ~kSign;
  const int32_t bits = std::bit_cast<int32_t>(x) & ~kSign;
  const int32_t kept = (bits - kLeastBits - 1) >> 31;
  const float bounded = std::bit_cast<float>((bits & kept) | kSign);
  const float n = (bounded * kLog2E + kRound) - kRound;
  const float r = (bounded - n * kLn2High) - n * kLn2Low;
  float series = 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const float power =
      std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return std::bit_cast<float>(std::bit_cast<int32_t>(series * power) & kept);
}

}  // namespace

bool AllFinite(absl::Span<const float> values) {
  // The exponent of infinities and NaN is all ones.
  constexpr int32_t kExponent = 0x7f800000;
  int32_t bad = 0;
  for (const float value : values) {
    bad |= (std::bit_cast<int32_t>(value) & kExponent) == kExponent ? 1 : 0;
  }
  return bad == 0;
}

float LargestOf(absl::Span<const float> values) {
  std::array<float, kLanes> largest;
  largest.fill(-std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      largest[lane] = value > largest[lane] ? value : largest[lane];
    }
  }
  for (; i < values.size(); ++i) largest[0] = std::max(largest[0], values[i]);
  return *std::max_element(largest.begin(), largest.end());
}

double ExpWeights(absl::Span<const float> values, float largest,
                  float temperature, absl::Span<float> weights) {
  std::array<double, kLanes> sums = {};
  for (size_t begin = 0; begin < values.size(); begin += kLanes) {
    const size_t count = std::min(kLanes, values.size() - begin);
    Lanes lanes;
    lanes.fill(-std::numeric_limits<float>::infinity());
    std::copy_n(values.begin() + begin, count, lanes.begin());
    for (float& lane : lanes) {
      lane = ExpOfNegative((lane - largest) / temperature);
    }
    for (size_t i = 0; i < kLanes; ++i) sums[i] += lanes[i];
    std::copy_n(lanes.begin(), count, weights.begin() + begin);
  }
  double sum = 0;
  for (const double lane : sums) sum += lane;
  return sum;
}

}  // namespace sparseserve
