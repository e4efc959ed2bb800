#pragma once

#include <cstdint>
#include <cstring>

namespace sparseserve::cuda {

// bf16 as its bits, on the host.
inline std::uint16_t ToBfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  // Nearest, ties to even. Not for NaN.
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float FromBfloat16(std::uint16_t value) {
  const std::uint32_t bits = std::uint32_t{value} << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline constexpr std::uint16_t kBfloat16Nan = 0x7fc1;

}  // namespace sparseserve::cuda
