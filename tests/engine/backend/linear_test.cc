#include <cmath>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/engine/backend/random_matrix.h"

namespace sparseserve {
namespace {

using LinearTest = BackendTest;

std::vector<float> Multiply(Backend& backend, const Weight& weight,
                            std::vector<float> input, RowGroups groups) {
  const int64_t rows = groups.decode_rows + groups.prefill_rows;
  std::vector<float> output(rows * weight.rows());
  backend.Linear(weight, MatrixView{input.data(), rows, weight.columns()},
                 groups, false, {output.data(), rows, weight.rows()});
  return output;
}

TEST_P(LinearTest, EveryDtypeAndRowCountEqualsDoublePrecision) {
  for (const DType dtype : kAllDTypes) {
    const int64_t columns = WidthFor(dtype, 96);
    // 43 outputs: strips of 8 and a rest of 3.
    const RandomMatrix matrix(dtype, 43, columns, 1);
    const auto weight =
        backend().LoadWeight({matrix.stored()}, WeightUse::kLayer).value();
    for (const int64_t rows : {1, 2, 3, 7, 16, 33, 64}) {
      const std::vector<float> input = RandomFloats(rows * columns, rows);
      const std::vector<float> output =
          Multiply(backend(), *weight, input, {.decode_rows = rows});
      EXPECT_LT(WorstError(matrix.values(), input, output, columns), 1e-6)
          << DTypeName(dtype) << ", " << rows << " rows";
    }
  }
}

TEST_P(LinearTest, DecodeRowIsTheSameToTheBitInAnyBatch) {
  for (const DType dtype : kAllDTypes) {
    const int64_t columns = WidthFor(dtype, 160);
    const RandomMatrix matrix(dtype, 29, columns, 2);
    const auto weight =
        backend().LoadWeight({matrix.stored()}, WeightUse::kLayer).value();
    const std::vector<float> input = RandomFloats(64 * columns, 3);
    const std::vector<float> together =
        Multiply(backend(), *weight, input, {.decode_rows = 64});
    for (const int64_t rows : {1, 2, 3, 4, 5, 16, 33}) {
      for (int64_t first = 0; first + rows <= 64; first += 13) {
        const std::vector<float> some(input.begin() + first * columns,
                                      input.begin() + (first + rows) * columns);
        EXPECT_EQ(Multiply(backend(), *weight, some, {.decode_rows = rows}),
                  std::vector<float>(together.begin() + first * 29,
                                     together.begin() + (first + rows) * 29))
            << DTypeName(dtype) << ", " << rows << " rows from " << first;
      }
    }
  }
}

TEST_P(LinearTest, PrefillRowsOfTheExactModeEqualDecodeRows) {
  const RandomMatrix matrix(DType::kQ4_1, 48, 64, 4);
  const auto weight =
      backend().LoadWeight({matrix.stored()}, WeightUse::kLayer).value();
  const std::vector<float> input = RandomFloats(100 * 64, 5);
  EXPECT_EQ(Multiply(backend(), *weight, input, {.decode_rows = 100}),
            Multiply(backend(), *weight, input,
                     {.decode_rows = 1, .prefill_rows = 99}));
}

TEST_P(LinearTest, StackedMatricesFollowEachOther) {
  const RandomMatrix first(DType::kQ4_1, 11, 64, 6);
  const RandomMatrix second(DType::kF32, 5, 64, 7);
  const RandomMatrix third(DType::kQ8_0, 20, 64, 8);
  const auto weight =
      backend()
          .LoadWeight({first.stored(), second.stored(), third.stored()},
                      WeightUse::kLayer)
          .value();
  ASSERT_EQ(weight->rows(), 36);
  std::vector<float> values = first.values();
  for (const RandomMatrix* more : {&second, &third}) {
    values.insert(values.end(), more->values().begin(), more->values().end());
  }
  const std::vector<float> input = RandomFloats(3 * 64, 9);
  const std::vector<float> output =
      Multiply(backend(), *weight, input, {.decode_rows = 3});
  EXPECT_LT(WorstError(values, input, output, 64), 1e-6);
}

TEST_P(LinearTest, AccumulateAddsToTheOutput) {
  const RandomMatrix matrix(DType::kQ4_0, 24, 64, 10);
  const auto weight =
      backend().LoadWeight({matrix.stored()}, WeightUse::kLayer).value();
  std::vector<float> input = RandomFloats(6 * 64, 11);
  const std::vector<float> product =
      Multiply(backend(), *weight, input, {.decode_rows = 6});
  std::vector<float> output = RandomFloats(6 * 24, 12);
  std::vector<float> expected = output;
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += product[i];
  backend().Linear(*weight, MatrixView{input.data(), 6, 64}, {.decode_rows = 6},
                   true, {output.data(), 6, 24});
  EXPECT_EQ(output, expected);
}

// Widths of real models, which fill no cache block, strip or input tile evenly.
TEST_P(LinearTest, WideMatricesAddToTheOutputInDoublePrecision) {
  constexpr std::pair<DType, int64_t> kMatrices[] = {
      {DType::kQ4_1, 768},  {DType::kQ4_1, 800},  {DType::kQ4_1, 1600},
      {DType::kQ4_K, 768},  {DType::kQ4_K, 2560}, {DType::kQ5_K, 1024},
      {DType::kQ6_K, 1024}, {DType::kQ5_0, 800}};
  for (const auto& [dtype, columns] : kMatrices) {
    const RandomMatrix matrix(dtype, 21, columns, 17);
    const auto weight =
        backend().LoadWeight({matrix.stored()}, WeightUse::kLayer).value();
    for (const int64_t rows : {1, 13, 130}) {
      std::vector<float> input = RandomFloats(rows * columns, rows);
      const std::vector<float> product =
          Multiply(backend(), *weight, input, {.decode_rows = rows});
      EXPECT_LT(WorstError(matrix.values(), input, product, columns), 1e-6)
          << DTypeName(dtype) << ", " << columns << " columns, " << rows
          << " rows";
      const std::vector<float> before = RandomFloats(rows * 21, 18);
      std::vector<float> output = before;
      backend().Linear(*weight, MatrixView{input.data(), rows, columns},
                       {.decode_rows = rows}, true, {output.data(), rows, 21});
      for (size_t i = 0; i < output.size(); ++i) output[i] -= before[i];
      EXPECT_LT(WorstError(matrix.values(), input, output, columns), 1e-6)
          << DTypeName(dtype) << ", " << columns << " columns, " << rows
          << " rows, on top";
    }
  }
}

TEST_P(LinearTest, EmbedExpandsTheTokensRowsToTheBit) {
  for (const DType dtype : kAllDTypes) {
    const int64_t columns = WidthFor(dtype, 64);
    const RandomMatrix matrix(dtype, 19, columns, 13);
    const auto table =
        backend().LoadWeight({matrix.stored()}, WeightUse::kFewRows).value();
    const std::vector<TokenId> tokens = {18, 0, 7, 8, 7};
    std::vector<float> output(tokens.size() * columns);
    backend().Embed(*table, tokens, 1, {output.data(), 5, columns});
    for (size_t t = 0; t < tokens.size(); ++t) {
      const auto row = matrix.values().begin() + tokens[t] * columns;
      EXPECT_EQ(std::vector<float>(output.begin() + t * columns,
                                   output.begin() + (t + 1) * columns),
                std::vector<float>(row, row + columns))
          << DTypeName(dtype);
    }
  }
}

TEST_P(LinearTest, RefusesShapesThatItCannotMultiply) {
  const RandomMatrix matrix(DType::kF32, 4, 40, 14);
  const auto odd = backend().LoadWeight({matrix.stored()}, WeightUse::kLayer);
  EXPECT_EQ(odd.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(odd.status().message(), testing::HasSubstr("40 columns"));
  EXPECT_FALSE(backend().LoadWeight({}, WeightUse::kLayer).ok());
  const std::vector<std::byte> blocks(4096);
  const auto part_of_block = backend().LoadWeight(
      {{blocks.data(), DType::kQ4_K, 4, 384}}, WeightUse::kLayer);
  EXPECT_EQ(part_of_block.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(part_of_block.status().message(),
              testing::HasSubstr("Q4_K has 384 columns, not a multiple of the "
                                 "256 in a block"));
  const RandomMatrix narrow(DType::kF32, 4, 32, 15);
  const RandomMatrix wide(DType::kF32, 4, 64, 16);
  EXPECT_FALSE(
      backend()
          .LoadWeight({narrow.stored(), wide.stored()}, WeightUse::kLayer)
          .ok());
}

TEST(AvailableSimdPathsTest, ListsWhatTheCpuHas) {
  const std::vector<std::string> paths = AvailableSimdPaths();
  EXPECT_THAT(paths, testing::Contains("scalar"));
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    EXPECT_THAT(paths, testing::Contains("avx2"));
  }
#endif
}

INSTANTIATE_TEST_SUITE_P(Paths, LinearTest,
                         testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
