#pragma once

#include <cstdint>
#include <string_view>

namespace sparseserve {

// Element types of stored tensors. The quantised ones hold blocks of
// consecutive elements of a row, laid out as in ggml (quant_blocks.h).
enum class DType {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};

// Each of them, once.
inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,
                                       DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                                       DType::kQ5_0, DType::kQ5_1, DType::kQ4_K,
                                       DType::kQ5_K, DType::kQ6_K};

// Elements that one block holds: 1 for the plain types, 256 for Q4_K, Q5_K and
// Q6_K, else 32.
int BlockElements(DType dtype);
// Bytes of one block.
int BlockBytes(DType dtype);
// "F32", "Q4_1", ...
std::string_view DTypeName(DType dtype);

}  // namespace sparseserve
