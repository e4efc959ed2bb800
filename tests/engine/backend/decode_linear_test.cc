// Decode rows of the mode that may round them. The exact mode's are in
// linear_test.cc.

#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/create_backend.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/engine/backend/random_matrix.h"

namespace sparseserve {
namespace {

// A row is off by 2^-16 of the largest of 32 neighbours, and its products by
// less on average.
constexpr double kRoundedError = 3e-5;

class DecodeLinearTest : public testing::TestWithParam<std::string> {
 protected:
  DecodeLinearTest() : backend_(Create("bf16")) {}

  static std::unique_ptr<Backend> Create(const char* compute_dtype,
                                         int threads = 2) {
    return CreateBackend({.threads = threads,
                          .compute_dtype = compute_dtype,
                          .simd = GetParam()})
        .value();
  }

  Backend& backend() { return *backend_; }

  static std::vector<float> Multiply(Backend& backend, const Weight& weight,
                                     const std::vector<float>& input,
                                     RowGroups groups) {
    const int64_t rows = groups.decode_rows + groups.prefill_rows;
    std::vector<float> output(rows * weight.rows());
    backend.Linear(weight,
                   ConstMatrixView(input.data(), rows, weight.columns()),
                   groups, false, {output.data(), rows, weight.rows()});
    return output;
  }

 private:
  std::unique_ptr<Backend> backend_;
};

TEST_P(DecodeLinearTest, EveryDtypeIsNearDoublePrecision) {
  for (const DType dtype : kAllDTypes) {
    const int64_t columns = WidthFor(dtype, 96);
    const RandomMatrix matrix(dtype, 43, columns, 1);
    const auto weight =
        backend().LoadWeight({matrix.stored()}, WeightUse::kFewRows).value();
    for (const int64_t rows : {1, 2, 7, 16, 130}) {
      const std::vector<float> input = RandomFloats(rows * columns, rows);
      EXPECT_LT(
          WorstError(matrix.values(), input,
                     Multiply(backend(), *weight, input, {.decode_rows = rows}),
                     columns),
          kRoundedError)
          << DTypeName(dtype) << ", " << rows << " rows";
    }
  }
}

TEST_P(DecodeLinearTest, RowIsTheSameToTheBitInAnyBatch) {
  for (const DType dtype : kAllDTypes) {
    const int64_t columns = WidthFor(dtype, 160);
    const RandomMatrix matrix(dtype, 29, columns, 2);
    const auto weight =
        backend().LoadWeight({matrix.stored()}, WeightUse::kFewRows).value();
    // More than are rounded together.
    const std::vector<float> input = RandomFloats(100 * columns, 3);
    const std::vector<float> together =
        Multiply(backend(), *weight, input, {.decode_rows = 100});
    for (const int64_t rows : {1, 2, 3, 5, 16, 33}) {
      const int64_t first = 100 - rows;
      const std::vector<float> some(input.begin() + first * columns,
                                    input.end());
      const std::vector<float> expected(together.begin() + first * 29,
                                        together.end());
      EXPECT_EQ(Multiply(backend(), *weight, some, {.decode_rows = rows}),
                expected)
          << DTypeName(dtype) << ", " << rows << " rows";
      std::vector<float> beside_prefill =
          Multiply(backend(), *weight, some,
                   {.decode_rows = 1, .prefill_rows = rows - 1});
      beside_prefill.resize(29);
      EXPECT_THAT(beside_prefill, testing::ElementsAreArray(
                                      expected.begin(), expected.begin() + 29));
    }
  }
}

// Matrices of any dtype and height, with lanes, strips and ranges that begin
// and end inside them.
TEST_P(DecodeLinearTest, StackedMatricesFollowEachOther) {
  const DType dtypes[] = {DType::kQ4_1, DType::kQ8_0, DType::kQ8_0, DType::kF32,
                          DType::kQ4_1, DType::kBF16, DType::kQ5_0};
  const int64_t heights[] = {11, 40, 3, 9, 64, 1, 24};
  std::vector<RandomMatrix> matrices;
  std::vector<StoredMatrix> stored;
  std::vector<float> values;
  for (size_t i = 0; i < std::size(dtypes); ++i) {
    matrices.emplace_back(dtypes[i], heights[i], 64, 20 + i);
  }
  for (const RandomMatrix& matrix : matrices) {
    stored.push_back(matrix.stored());
    values.insert(values.end(), matrix.values().begin(), matrix.values().end());
  }
  const auto weight = backend().LoadWeight(stored, WeightUse::kLayer).value();
  for (const int64_t rows : {1, 3}) {
    const std::vector<float> input = RandomFloats(rows * 64, 9);
    EXPECT_LT(
        WorstError(values, input,
                   Multiply(backend(), *weight, input, {.decode_rows = rows}),
                   64),
        kRoundedError);
  }
}

// Three rows, and another matrix where an eighth would end; several times, so
// that a worker gets both.
TEST_P(DecodeLinearTest, RowsBetweenTwoMatricesAreNotRead) {
  constexpr int kPairs = 8;
  const RandomMatrix matrix(DType::kQ4_1, 16, 64, 21);
  StoredMatrix first = matrix.stored();
  first.rows = 3;
  StoredMatrix second = matrix.stored();
  second.rows = 8;
  second.data += 8 * 2 * BlockBytes(DType::kQ4_1);
  std::vector<StoredMatrix> pairs;
  for (int i = 0; i < kPairs; ++i) pairs.insert(pairs.end(), {first, second});
  const auto both = backend().LoadWeight(pairs, WeightUse::kFewRows).value();
  const auto whole =
      backend().LoadWeight({matrix.stored()}, WeightUse::kFewRows).value();
  const std::vector<float> input = RandomFloats(64, 22);
  const std::vector<float> output =
      Multiply(backend(), *both, input, {.decode_rows = 1});
  const std::vector<float> all =
      Multiply(backend(), *whole, input, {.decode_rows = 1});
  for (int n = 0; n < kPairs * 11; ++n) {
    EXPECT_EQ(output[n], all[n % 11 < 3 ? n % 11 : n % 11 + 5])
        << "output " << n;
  }
}

TEST_P(DecodeLinearTest, AccumulateAddsToTheOutput) {
  const RandomMatrix matrix(DType::kQ4_0, 24, 64, 10);
  const auto weight =
      backend().LoadWeight({matrix.stored()}, WeightUse::kLayer).value();
  const std::vector<float> input = RandomFloats(6 * 64, 11);
  std::vector<float> expected =
      Multiply(backend(), *weight, input, {.decode_rows = 6});
  std::vector<float> output = RandomFloats(6 * 24, 12);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += output[i];
  backend().Linear(*weight, ConstMatrixView(input.data(), 6, 64),
                   {.decode_rows = 6}, true, {output.data(), 6, 24});
  EXPECT_EQ(output, expected);
}

// What is not stored as integers is multiplied as in the exact mode.
TEST_P(DecodeLinearTest, FloatWeightsAreNotRounded) {
  const std::unique_ptr<Backend> exact = Create("f32");
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const RandomMatrix matrix(dtype, 24, 96, 13);
    const std::vector<float> input = RandomFloats(5 * 96, 14);
    std::vector<float> outputs[2];
    for (Backend* one : {&backend(), exact.get()}) {
      const auto weight =
          one->LoadWeight({matrix.stored()}, WeightUse::kFewRows).value();
      outputs[one == exact.get()] =
          Multiply(*one, *weight, input, {.decode_rows = 5});
    }
    EXPECT_EQ(outputs[0], outputs[1]) << DTypeName(dtype);
  }
}

TEST_P(DecodeLinearTest, OnlyWhatIsMultipliedIsPacked) {
  const RandomMatrix matrix(DType::kQ4_1, 160, 96, 19);
  const int64_t stored = 160 * 3 * BlockBytes(DType::kQ4_1);
  const auto load = [&](Backend& on, WeightUse use) {
    return on.LoadWeight({matrix.stored()}, use).value();
  };
  const auto table = load(backend(), WeightUse::kTable);
  const auto head = load(backend(), WeightUse::kFewRows);
  const auto exact = load(*Create("f32"), WeightUse::kFewRows);
  EXPECT_EQ(table->bytes(), exact->bytes());
  const bool has_integers = GetParam() != "scalar";
  EXPECT_EQ(head->bytes() - table->bytes() >= stored, has_integers);
  EXPECT_LE(head->bytes() - table->bytes(), stored + 4096);
  // Rows are still looked up where they are stored.
  std::vector<float> row(96);
  backend().Embed(*head, std::vector<TokenId>{159}, 1, {row.data(), 1, 96});
  EXPECT_EQ(row, std::vector<float>(matrix.values().end() - 96,
                                    matrix.values().end()));
}

TEST_P(DecodeLinearTest, ThreadsDoNotShowInTheResult) {
  // Strips and rows that divide among workers in other ways.
  const RandomMatrix matrix(DType::kQ4_1, 203, 96, 17);
  const std::vector<float> input = RandomFloats(20 * 96, 18);
  std::vector<float> outputs[2];
  for (const int threads : {1, 3}) {
    const std::unique_ptr<Backend> one = Create("bf16", threads);
    const auto weight =
        one->LoadWeight({matrix.stored()}, WeightUse::kFewRows).value();
    outputs[threads / 2] = Multiply(*one, *weight, input, {.decode_rows = 20});
  }
  EXPECT_EQ(outputs[0], outputs[1]);
}

TEST_P(DecodeLinearTest, RowsThatAreNotFiniteStayApart) {
  const RandomMatrix matrix(DType::kQ4_1, 24, 64, 15);
  const auto weight =
      backend().LoadWeight({matrix.stored()}, WeightUse::kFewRows).value();
  std::vector<float> input = RandomFloats(3 * 64, 16);
  const std::vector<float> clean =
      Multiply(backend(), *weight, input, {.decode_rows = 3});
  input[64 + 33] = std::numeric_limits<float>::infinity();
  const std::vector<float> output =
      Multiply(backend(), *weight, input, {.decode_rows = 3});
  for (int n = 0; n < 24; ++n) {
    EXPECT_EQ(output[n], clean[n]);
    EXPECT_FALSE(std::isfinite(output[24 + n]));
    EXPECT_EQ(output[48 + n], clean[48 + n]);
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, DecodeLinearTest,
                         testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
