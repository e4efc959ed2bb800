#pragma once

#include <cstdint>
#include <string_view>

namespace sparseserve {

// Element types of stored tensors. The quantised ones hold blocks of 32
// consecutive elements of a row, laid out as in ggml (quant_blocks.h).
enum class DType { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1 };

// Elements that one block holds: 1 for the plain types, else 32.
int BlockElements(DType dtype);
// Bytes of one block.
int BlockBytes(DType dtype);
// "F32", "Q4_1", ...
std::string_view DTypeName(DType dtype);

}  // namespace sparseserve
