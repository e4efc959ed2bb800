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

// The quants of a BlockQ5_0 or BlockQ5_1.
template <typename Block>
void UnpackFiveBits(const Block& block, int (&quants)[kQuantBlockElements]) {
  constexpr int kHalf = kQuantBlockElements / 2;
  for (int i = 0; i < kQuantBlockElements; ++i) {
    const int low = block.quants[i % kHalf] >> (i < kHalf ? 0 : 4) & 15;
    const int high = block.high_bits[i / 8] >> i % 8 & 1;
    quants[i] = low | high << 4;
  }
}

void ExpandBlock(const BlockQ5_0& block, float* destination) {
  const float d = HalfToFloat(block.d);
  int quants[kQuantBlockElements];
  UnpackFiveBits(block, quants);
  for (const int q : quants) *destination++ = d * static_cast<float>(q - 16);
}

void ExpandBlock(const BlockQ5_1& block, float* destination) {
  const float d = HalfToFloat(block.d);
  const float m = HalfToFloat(block.m);
  int quants[kQuantBlockElements];
  UnpackFiveBits(block, quants);
  for (const int q : quants) *destination++ = d * static_cast<float>(q) + m;
}

// Of a BlockQ4_K or BlockQ5_K, whose fifth bits are in `high_bits`.
template <typename Block>
void ExpandParts(const Block& block, const uint8_t* high_bits,
                 float* destination) {
  const float d = HalfToFloat(block.d);
  const float dmin = HalfToFloat(block.dmin);
  const PartScales parts = UnpackScales(block.scales);
  for (int part = 0; part < 8; ++part) {
    // Products of a half with small integers are exact in float.
    const float scale = d * static_cast<float>(parts.scales[part]);
    const float min = dmin * static_cast<float>(parts.mins[part]);
    for (int i = 0; i < 32; ++i) {
      const int low = block.quants[part / 2 * 32 + i] >> part % 2 * 4 & 15;
      const int high = high_bits == nullptr ? 0 : high_bits[i] >> part & 1;
      *destination++ = scale * static_cast<float>(low | high << 4) - min;
    }
  }
}

void ExpandBlock(const BlockQ4_K& block, float* destination) {
  ExpandParts(block, nullptr, destination);
}

void ExpandBlock(const BlockQ5_K& block, float* destination) {
  ExpandParts(block, block.high_bits, destination);
}

void ExpandBlock(const BlockQ6_K& block, float* destination) {
  const float d = HalfToFloat(block.d);
  for (int i = 0; i < kSuperBlockElements; ++i) {
    const int half = i / 128;
    const int group = i % 128 / 32;
    const int quants = block.quants[half * 64 + group % 2 * 32 + i % 32];
    const int low = quants >> group / 2 * 4 & 15;
    const int high = block.high_bits[half * 32 + i % 32] >> 2 * group & 3;
    const int sixteenth = i / 16;
    const float scale = d * static_cast<float>(block.scales[sixteenth]);
    *destination++ = scale * static_cast<float>((low | high << 4) - 32);
  }
}

template <typename Block>
void ExpandBlocks(DType dtype, const std::byte* source, int64_t count,
                  float* destination) {
  const int elements = BlockElements(dtype);
  SPARSESERVE_CHECK(count % elements == 0);
  for (int64_t i = 0; i < count; i += elements) {
    ExpandBlock(Load<Block>(source), destination + i);
    source += sizeof(Block);
  }
}

}  // namespace

PartScales UnpackScales(const uint8_t (&packed)[12]) {
  PartScales parts;
  for (int i = 0; i < 4; ++i) {
    parts.scales[i] = packed[i] & 63;
    parts.mins[i] = packed[i + 4] & 63;
    // The later four have their low bits at the end, their high ones above
    // those of the first four.
    parts.scales[i + 4] = (packed[i + 8] & 15) | (packed[i] >> 6) << 4;
    parts.mins[i + 4] = packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4;
  }
  return parts;
}

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
      return ExpandBlocks<BlockQ8_0>(dtype, bytes, count, destination);
    case DType::kQ4_0:
      return ExpandBlocks<BlockQ4_0>(dtype, bytes, count, destination);
    case DType::kQ4_1:
      return ExpandBlocks<BlockQ4_1>(dtype, bytes, count, destination);
    case DType::kQ5_0:
      return ExpandBlocks<BlockQ5_0>(dtype, bytes, count, destination);
    case DType::kQ5_1:
      return ExpandBlocks<BlockQ5_1>(dtype, bytes, count, destination);
    case DType::kQ4_K:
      return ExpandBlocks<BlockQ4_K>(dtype, bytes, count, destination);
    case DType::kQ5_K:
      return ExpandBlocks<BlockQ5_K>(dtype, bytes, count, destination);
    case DType::kQ6_K:
      return ExpandBlocks<BlockQ6_K>(dtype, bytes, count, destination);
  }
  SPARSESERVE_CHECK(false);
}

}  // namespace sparseserve
