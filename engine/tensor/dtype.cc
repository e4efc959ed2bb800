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
  }
  SPARSESERVE_CHECK(false);
}

}  // namespace

int BlockElements(DType dtype) { return LayoutOf(dtype).elements; }

int BlockBytes(DType dtype) { return LayoutOf(dtype).bytes; }

std::string_view DTypeName(DType dtype) { return LayoutOf(dtype).name; }

}  // namespace sparseserve
