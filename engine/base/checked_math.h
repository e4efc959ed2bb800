#pragma once

// Arithmetic on numbers that a file or a caller claims: no result rather than
// a wrapped one.

#include <cstdint>
#include <optional>

namespace sparseserve {

constexpr std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

constexpr std::optional<uint64_t> CheckedMultiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// The least multiple of `alignment` >= value. REQUIRES: alignment is a power
// of two.
constexpr std::optional<uint64_t> CheckedAlignUp(uint64_t value,
                                                 uint64_t alignment) {
  const std::optional<uint64_t> sum = CheckedAdd(value, alignment - 1);
  if (!sum.has_value()) return std::nullopt;
  return *sum & ~(alignment - 1);
}

}  // namespace sparseserve
