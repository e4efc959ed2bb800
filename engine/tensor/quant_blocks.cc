#include "engine/tensor/quant_blocks.h"

#include <bit>
#include <cstddef>
#include <cstring>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

// Mapped files promise no alignment to the compiler, so blocks and elements
// are copied out before use.
template <typename T>
T Load(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof(T));
  return value;
}

void ExpandF32(const std::byte* source, int64_t count, float* destination) {
  std::memcpy(destination, source, count * sizeof(float));
}

void ExpandF16(const std::byte* source, int64_t count, float* destination) {
  for (int64_t i = 0; i < count; ++i) {
    destination[i] = HalfToFloat(Load<uint16_t>(source + 2 * i));
  }
}

void ExpandBF16(const std::byte* source, int64_t count, float* destination) {
  for (int64_t i = 0; i < count; ++i) {
    destination[i] = BFloat16ToFloat(Load<uint16_t>(source + 2 * i));
  }
}

void ExpandBlock(const BlockQ8_0& block, float* destination) {
  const float d = HalfToFloat(block.d);
  for (int i = 0; i < kQuantBlockElements; ++i) {
    destination[i] = d * static_cast<float>(block.quants[i]);
  }
}

void ExpandBlock(const BlockQ4_0& block, float* destination) {
  constexpr int kHalf = kQuantBlockElements / 2;
  const float d = HalfToFloat(block.d);
  for (int i = 0; i < kHalf; ++i) {
    const int quants = block.quants[i];
    destination[i] = d * static_cast<float>((quants & 15) - 8);
    destination[i + kHalf] = d * static_cast<float>((quants >> 4) - 8);
  }
}

void ExpandBlock(const BlockQ4_1& block, float* destination) {
  constexpr int kHalf = kQuantBlockElements / 2;
  const float d = HalfToFloat(block.d);
  const float m = HalfToFloat(block.m);
  for (int i = 0; i < kHalf; ++i) {
    const int quants = block.quants[i];
    destination[i] = d * static_cast<float>(quants & 15) + m;
    destination[i + kHalf] = d * static_cast<float>(quants >> 4) + m;
  }
}

template <typename Block>
void ExpandBlocks(const std::byte* source, int64_t count, float* destination) {
  SPARSESERVE_CHECK(count % kQuantBlockElements == 0);
  for (int64_t i = 0; i < count; i += kQuantBlockElements) {
    ExpandBlock(Load<Block>(source), destination + i);
    source += sizeof(Block);
  }
}

}  // namespace

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) {  // infinity and NaN keep their payload
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  }
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                              (mantissa << 13));
}

float BFloat16ToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    // Cutting a NaN's payload could leave infinity: make it quiet.
    return static_cast<uint16_t>((bits >> 16) | 0x40u);
  }
  const uint32_t round_to_even = 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>((bits + round_to_even) >> 16);
}

void DequantizeRow(DType dtype, const void* source, int64_t count,
                   float* destination) {
  const auto* bytes = static_cast<const std::byte*>(source);
  switch (dtype) {
    case DType::kF32:
      return ExpandF32(bytes, count, destination);
    case DType::kF16:
      return ExpandF16(bytes, count, destination);
    case DType::kBF16:
      return ExpandBF16(bytes, count, destination);
    case DType::kQ8_0:
      return ExpandBlocks<BlockQ8_0>(bytes, count, destination);
    case DType::kQ4_0:
      return ExpandBlocks<BlockQ4_0>(bytes, count, destination);
    case DType::kQ4_1:
      return ExpandBlocks<BlockQ4_1>(bytes, count, destination);
  }
  SPARSESERVE_CHECK(false);
}

}  // namespace sparseserve
