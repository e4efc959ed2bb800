#include "engine/tensor/dtype.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(DTypeTest, KnowsBlocksAndNames) {
  struct Case {
    DType dtype;
    int elements;
    int bytes;
    std::string_view name;
  };
  constexpr Case kCases[] = {
      {DType::kF32, 1, 4, "F32"},       {DType::kF16, 1, 2, "F16"},
      {DType::kBF16, 1, 2, "BF16"},     {DType::kQ8_0, 32, 34, "Q8_0"},
      {DType::kQ4_0, 32, 18, "Q4_0"},   {DType::kQ4_1, 32, 20, "Q4_1"},
      {DType::kQ5_0, 32, 22, "Q5_0"},   {DType::kQ5_1, 32, 24, "Q5_1"},
      {DType::kQ4_K, 256, 144, "Q4_K"}, {DType::kQ5_K, 256, 176, "Q5_K"},
      {DType::kQ6_K, 256, 210, "Q6_K"}};
  EXPECT_EQ(std::size(kAllDTypes), std::size(kCases));
  for (const Case& expected : kCases) {
    EXPECT_EQ(BlockElements(expected.dtype), expected.elements);
    EXPECT_EQ(BlockBytes(expected.dtype), expected.bytes);
    EXPECT_EQ(DTypeName(expected.dtype), expected.name);
  }
}

}  // namespace
}  // namespace sparseserve
