#include "engine/tensor/dtype.h"

#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

struct Layout {
  int elements;
  int bytes;
  std::string_view name;
};

Layout LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {1, 4, "F32"};
    case DType::kF16:
      return {1, 2, "F16"};
    case DType::kBF16:
      return {1, 2, "BF16"};
    case DType::kQ8_0:
      return {kQuantBlockElements, sizeof(BlockQ8_0), "Q8_0"};
    case DType::kQ4_0:
      return {kQuantBlockElements, sizeof(BlockQ4_0), "Q4_0"};
    case DType::kQ4_1:
      return {kQuantBlockElements, sizeof(BlockQ4_1), "Q4_1"};
    case DType::kQ5_0:
      return {kQuantBlockElements, sizeof(BlockQ5_0), "Q5_0"};
    case DType::kQ5_1:
      return {kQuantBlockElements, sizeof(BlockQ5_1), "Q5_1"};
    case DType::kQ4_K:
      return {kSuperBlockElements, sizeof(BlockQ4_K), "Q4_K"};
    case DType::kQ5_K:
      return {kSuperBlockElements, sizeof(BlockQ5_K), "Q5_K"};
    case DType::kQ6_K:
      return {kSuperBlockElements, sizeof(BlockQ6_K), "Q6_K"};
  }
  SPARSESERVE_CHECK(false);
}

}  // namespace

int BlockElements(DType dtype) { return LayoutOf(dtype).elements; }

int BlockBytes(DType dtype) { return LayoutOf(dtype).bytes; }

std::string_view DTypeName(DType dtype) { return LayoutOf(dtype).name; }

}  // namespace sparseserve
