#include "engine/tensor/quant_blocks.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/tensor/dtype.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

std::vector<uint32_t> FloatBits(const std::string& bytes) {
  std::vector<uint32_t> bits(bytes.size() / sizeof(uint32_t));
  std::memcpy(bits.data(), bytes.data(), bits.size() * sizeof(uint32_t));
  return bits;
}

TEST(QuantBlocksTest, ExpandsEveryTypeToTheBitsOfTheReference) {
  std::map<std::string, DType> types;
  for (const DType dtype : kAllDTypes) {
    types[std::string(DTypeName(dtype))] = dtype;
  }
  std::set<std::string> seen;
  std::ifstream file("tests/golden/tensor/blocks.jsonl");
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json row = nlohmann::json::parse(line);
    const std::string name = row["dtype"];
    const std::string stored =
        absl::HexStringToBytes(row["stored"].get<std::string>());
    const std::vector<uint32_t> expected =
        FloatBits(absl::HexStringToBytes(row["float_bits"].get<std::string>()));
    std::vector<float> floats(expected.size());
    DequantizeRow(types.at(name), stored.data(),
                  static_cast<int64_t>(floats.size()), floats.data());
    for (size_t i = 0; i < floats.size(); ++i) {
      ASSERT_EQ(Bits(floats[i]), expected[i]) << name << " element " << i;
    }
    seen.insert(name);
  }
  EXPECT_EQ(seen.size(), std::size(kAllDTypes));
}

TEST(QuantBlocksTest, ReadsRowsThatAreNotAligned) {
  for (const DType dtype : kAllDTypes) {
    constexpr int64_t kElements = 512;
    const size_t bytes = kElements / BlockElements(dtype) * BlockBytes(dtype);
    std::vector<uint8_t> aligned(bytes);
    for (size_t i = 0; i < bytes; ++i)
      aligned[i] = static_cast<uint8_t>(i % 60);
    std::vector<uint8_t> shifted(bytes + 1);
    std::memcpy(shifted.data() + 1, aligned.data(), bytes);
    std::vector<float> expected(kElements);
    std::vector<float> actual(kElements);
    DequantizeRow(dtype, aligned.data(), kElements, expected.data());
    DequantizeRow(dtype, shifted.data() + 1, kElements, actual.data());
    EXPECT_EQ(actual, expected) << DTypeName(dtype);
  }
}

TEST(QuantBlocksTest, ExpandsNothingFromAnEmptyRow) {
  float untouched = 7.0f;
  for (const DType dtype : kAllDTypes) {
    const uint8_t nothing = 0;
    DequantizeRow(dtype, &nothing, 0, &untouched);
  }
  EXPECT_EQ(untouched, 7.0f);
}

TEST(QuantBlocksDeathTest, RefusesPartOfABlock) {
  const BlockQ8_0 block = {};
  float destination[kQuantBlockElements];
  EXPECT_DEATH(DequantizeRow(DType::kQ8_0, &block, 31, destination),
               "count % elements");
  const BlockQ4_K super_block = {};
  EXPECT_DEATH(DequantizeRow(DType::kQ4_K, &super_block, 32, destination),
               "count % elements");
}

TEST(HalfToFloatTest, IsExactForEveryFiniteHalf) {
  for (int half = 0; half < 0x10000; ++half) {
    const int exponent = (half >> 10) & 31;
    if (exponent == 31) continue;
    const int mantissa = half & 0x3ff;
    // IEEE 754 binary16: subnormals share the exponent of the least normals.
    const double magnitude = exponent == 0
                                 ? std::ldexp(mantissa, -24)
                                 : std::ldexp(1024 + mantissa, exponent - 25);
    const float expected =
        static_cast<float>((half & 0x8000) != 0 ? -magnitude : magnitude);
    ASSERT_EQ(Bits(HalfToFloat(static_cast<uint16_t>(half))), Bits(expected))
        << half;
  }
}

TEST(HalfToFloatTest, KeepsInfinitiesAndNans) {
  EXPECT_EQ(HalfToFloat(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_EQ(HalfToFloat(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(Bits(HalfToFloat(0x7e01)), 0x7fc02000u);
  EXPECT_EQ(Bits(HalfToFloat(0xfc01)), 0xff802000u);
}

TEST(QuantBlocksTest, CarriesAnInfiniteOrNanScaleIntoItsBlockOnly) {
  BlockQ8_0 blocks[3] = {};
  blocks[0].d = 0x7c00;
  blocks[1].d = 0x3c00;  // 1
  blocks[2].d = 0x7e00;
  for (BlockQ8_0& block : blocks) {
    for (int8_t& quant : block.quants) quant = -3;
  }
  float values[3 * kQuantBlockElements];
  DequantizeRow(DType::kQ8_0, blocks, std::size(values), values);
  EXPECT_EQ(values[0], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(values[kQuantBlockElements], -3.0f);
  EXPECT_TRUE(std::isnan(values[2 * kQuantBlockElements]));
}

TEST(BFloat16Test, KeepsEveryValueThatItCanHold) {
  for (int value = 0; value < 0x10000; ++value) {
    const uint16_t half = static_cast<uint16_t>(value);
    const float wide = BFloat16ToFloat(half);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(wide)))) << value;
    } else {
      EXPECT_EQ(FloatToBFloat16(wide), half) << value;
    }
  }
}

TEST(BFloat16Test, RoundsToNearestWithTiesToEven) {
  struct Case {
    uint32_t float_bits;
    uint16_t expected;
  };
  constexpr Case kCases[] = {
      {0x3f800000, 0x3f80},  // 1, exact
      {0x3f807fff, 0x3f80},  // just below a tie
      {0x3f808000, 0x3f80},  // a tie: down to even
      {0x3f808001, 0x3f81},  // just above
      {0x3f818000, 0x3f82},  // a tie: up to even
      {0xbf818000, 0xbf82},  // and its negative
      {0x7f7fffff, 0x7f80},  // the largest float becomes infinity
      {0x7f800000, 0x7f80},  // infinity stays
      {0x00000001, 0x0000},  // the least subnormal
      {0x00008001, 0x0001},  // a subnormal that rounds up
      {0x80000000, 0x8000},  // negative zero
  };
  for (const auto& [float_bits, expected] : kCases) {
    EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(float_bits)), expected)
        << std::hex << float_bits;
  }
}

TEST(BFloat16Test, KeepsANanWhosePayloadIsCutOff) {
  for (const uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu}) {
    const float rounded =
        BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(bits)));
    EXPECT_TRUE(std::isnan(rounded)) << std::hex << bits;
    EXPECT_EQ(std::signbit(rounded), (bits >> 31) != 0) << std::hex << bits;
  }
}

}  // namespace
}  // namespace sparseserve
