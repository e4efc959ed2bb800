#include "engine/backend/cpu/integer_kernels.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/random_matrix.h"

namespace sparseserve::cpu {
namespace {

struct Path {
  std::string name;
  const IntegerKernels* kernels = nullptr;
};
std::ostream& operator<<(std::ostream& out, const Path& path) {
  return out << path.name;
}

// Every path that this CPU has.
std::vector<Path> AvailablePaths() {
  std::vector<Path> paths;
  for (const SimdLevel level :
       {SimdLevel::kSse4, SimdLevel::kAvx2, SimdLevel::kAvx512}) {
    if (AvailableSimdLevel(level) != level) continue;
    const std::string name(SimdLevelName(level));
    paths.push_back({name, IntegerKernelsFor(level, /*allow_vnni=*/false)});
    if (level == SimdLevel::kAvx512 && HasVnni()) {
      paths.push_back({name + "_vnni", IntegerKernelsFor(level)});
    }
  }
  return paths;
}

// Rounded rows with their memory.
class Rounded {
 public:
  Rounded(const IntegerKernels& kernels, const std::vector<float>& input,
          int64_t columns)
      : columns_(columns),
        values_(input.size()),
        scales_(input.size() / kRoundedColumns),
        sums_(scales_.size()) {
    for (int64_t row = 0; row < rows(); ++row) {
      kernels.round_row(input.data() + row * columns, view().From(row));
    }
  }

  int64_t rows() const { return std::ssize(values_) / columns_; }
  RoundedRows view() {
    return {values_.data(), scales_.data(), sums_.data(), columns_};
  }
  float scale(int64_t i) const { return scales_[i / kRoundedColumns]; }
  float sum(int64_t block) const { return sums_[block]; }
  int64_t blocks() const { return std::ssize(scales_); }
  // Of element i of [rows, columns].
  int16_t value(int64_t i) const {
    constexpr int kPlace[4] = {0, 2, 1, 3};
    return values_[i / 4 * 4 + kPlace[i % 4]];
  }
  std::vector<double> Elements() const {
    std::vector<double> elements(values_.size());
    for (int64_t i = 0; i < std::ssize(elements); ++i) {
      elements[i] = static_cast<double>(scale(i)) * value(i);
    }
    return elements;
  }

 private:
  int64_t columns_;
  std::vector<int16_t> values_;
  std::vector<float> scales_;
  std::vector<float> sums_;
};

// Packed rows, with their own memory.
class Packed {
 public:
  Packed(const IntegerKernels& kernels, const StoredMatrix& matrix)
      : matrix_(matrix) {
    const int64_t groups =
        (matrix.rows + kernels.rows_at_once - 1) / kernels.rows_at_once;
    const int64_t bytes =
        groups * kernels.packed_bytes(matrix.dtype, matrix.columns);
    EXPECT_EQ(bytes % (4 * kernels.rows_at_once), 0);
    lines_.resize((bytes + sizeof(Line) - 1) / sizeof(Line));
    kernels.pack(matrix, reinterpret_cast<std::byte*>(lines_.data()));
  }

  // output: of rows * matrix.rows, or with another stride.
  IntegerStrip Strip(Rounded& input, std::vector<float>& output,
                     int64_t output_stride = 0) const {
    return {.weights = reinterpret_cast<const std::byte*>(lines_.data()),
            .dtype = matrix_.dtype,
            .rows = matrix_.rows,
            .input = input.view(),
            .input_rows = input.rows(),
            .output = output.data(),
            .output_stride = output_stride > 0 ? output_stride : matrix_.rows};
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  StoredMatrix matrix_;
  std::vector<Line> lines_;
};

class IntegerKernelsTest : public testing::TestWithParam<Path> {
 protected:
  const IntegerKernels& kernels() const { return *GetParam().kernels; }

  std::vector<float> Multiply(const StoredMatrix& matrix,
                              const std::vector<float>& input) const {
    Rounded rounded(kernels(), input, matrix.columns);
    std::vector<float> output(rounded.rows() * matrix.rows);
    kernels().multiply_strip(Packed(kernels(), matrix).Strip(rounded, output));
    return output;
  }
};

std::vector<DType> IntegerDTypes() {
  std::vector<DType> dtypes;
  for (const DType dtype : kAllDTypes) {
    if (HasIntegerProducts(dtype)) dtypes.push_back(dtype);
  }
  return dtypes;
}

// Normal values, of a magnitude that differs from block to block.
std::vector<float> UnevenFloats(int64_t count, uint32_t seed) {
  std::vector<float> floats = RandomFloats(count, seed);
  for (int64_t i = 0; i < count; ++i) {
    floats[i] = std::ldexp(floats[i],
                           static_cast<int>(i / kRoundedColumns * 7 % 23) - 11);
  }
  return floats;
}

TEST_P(IntegerKernelsTest, RoundsToSixteenBitsOfTheLargestOfABlock) {
  const std::vector<float> input = UnevenFloats(3 * 160, 1);
  const Rounded rounded(kernels(), input, 160);
  for (int64_t block = 0; block < rounded.blocks(); ++block) {
    const auto first = input.begin() + block * kRoundedColumns;
    float largest = 0;
    double sum = 0;
    for (int i = 0; i < kRoundedColumns; ++i) {
      largest = std::max(largest, std::abs(first[i]));
    }
    for (int i = 0; i < kRoundedColumns; ++i) {
      const int64_t element = block * kRoundedColumns + i;
      const double value =
          static_cast<double>(rounded.scale(element)) * rounded.value(element);
      EXPECT_LE(std::abs(value - first[i]), largest / 32767 * 0.5001)
          << "element " << element;
      sum += value;
    }
    EXPECT_NEAR(rounded.sum(block), sum, largest * 1e-6);
  }
}

TEST_P(IntegerKernelsTest, EveryFormatMultipliesRoundedRowsExactly) {
  for (const DType dtype : IntegerDTypes()) {
    for (const int64_t width : {32, 96, 160, 576}) {
      const int64_t columns = WidthFor(dtype, width);
      // Two vectors of sixteen rows and a rest of 11.
      const RandomMatrix matrix(dtype, 43, columns, 2);
      for (const int rows : {1, 3, 17}) {
        const std::vector<float> input = UnevenFloats(rows * columns, rows);
        const Rounded rounded(kernels(), input, columns);
        EXPECT_LT(WorstError(matrix.values(), rounded.Elements(),
                             Multiply(matrix.stored(), input), columns),
                  5e-7)
            << DTypeName(dtype) << ", " << columns << " columns, " << rows
            << " rows";
      }
    }
  }
}

// Quants and values as large as they get: 16 bits and 32 bits hold them.
TEST_P(IntegerKernelsTest, LargestQuantsDoNotOverflow) {
  for (const DType dtype : IntegerDTypes()) {
    const int64_t columns = WidthFor(dtype, 64);
    for (const int byte : {0x00, 0x7F, 0x80, 0xFF}) {
      RandomMatrix matrix(dtype, 16, columns, 3, byte);
      for (const float sign : {1.0f, -1.0f}) {
        const std::vector<float> input(columns, sign * 3.0f);
        EXPECT_LT(WorstError(matrix.values(),
                             Rounded(kernels(), input, columns).Elements(),
                             Multiply(matrix.stored(), input), columns),
                  5e-7)
            << DTypeName(dtype) << " of " << byte << ", " << sign;
      }
    }
  }
}

TEST_P(IntegerKernelsTest, RowIsTheSameToTheBitWhateverIsBesideIt) {
  for (const DType dtype : IntegerDTypes()) {
    const int64_t columns = WidthFor(dtype, 160);
    const RandomMatrix matrix(dtype, 37, columns, 4);
    const std::vector<float> input = UnevenFloats(37 * columns, 5);
    const std::vector<float> together = Multiply(matrix.stored(), input);
    for (const int rows : {1, 2, 3, 5, 16, 17}) {
      const std::vector<float> some(input.end() - rows * columns, input.end());
      EXPECT_EQ(Multiply(matrix.stored(), some),
                std::vector<float>(together.end() - rows * 37, together.end()))
          << DTypeName(dtype) << ", " << rows << " rows";
    }
    // Weight rows in other lanes.
    StoredMatrix tail = matrix.stored();
    tail.data += 30 * columns / BlockElements(dtype) * BlockBytes(dtype);
    tail.rows = 7;
    const std::vector<float> lanes = Multiply(tail, input);
    for (int r = 0; r < 37; ++r) {
      for (int n = 0; n < 7; ++n) {
        ASSERT_EQ(lanes[r * 7 + n], together[r * 37 + 30 + n])
            << DTypeName(dtype) << ", row " << r << ", output " << n;
      }
    }
  }
}

TEST_P(IntegerKernelsTest, AccumulateAddsToTheOutput) {
  const RandomMatrix matrix(DType::kQ4_1, 20, 64, 6);
  const std::vector<float> input = RandomFloats(2 * 64, 7);
  const std::vector<float> product = Multiply(matrix.stored(), input);
  Rounded rounded(kernels(), input, 64);
  // Rows of 24: what lies between them stays.
  std::vector<float> output(2 * 24, 0.25f);
  const Packed packed(kernels(), matrix.stored());
  IntegerStrip strip = packed.Strip(rounded, output, 24);
  strip.accumulate = true;
  kernels().multiply_strip(strip);
  for (int r = 0; r < 2; ++r) {
    for (int n = 0; n < 24; ++n) {
      EXPECT_EQ(output[r * 24 + n],
                n < 20 ? 0.25f + product[r * 20 + n] : 0.25f);
    }
  }
}

TEST_P(IntegerKernelsTest, ZerosAndTheTiniestNumbersGiveTheirProduct) {
  const RandomMatrix matrix(DType::kQ4_1, 16, 64, 8);
  for (const float value : {0.0f, -0.0f, std::numeric_limits<float>::min(),
                            std::numeric_limits<float>::denorm_min()}) {
    for (const float result :
         Multiply(matrix.stored(), std::vector<float>(64, value))) {
      EXPECT_LE(std::abs(result), 64 * 20 * value);
    }
  }
}

TEST_P(IntegerKernelsTest, OneHugeValueHidesItsBlockOnly) {
  for (const DType dtype : IntegerDTypes()) {
    const int64_t columns = WidthFor(dtype, 96);
    const RandomMatrix matrix(dtype, 16, columns, 9);
    std::vector<float> input = RandomFloats(columns, 10);
    input[40] = 1e30f;
    const Rounded rounded(kernels(), input, columns);
    const std::vector<float> output = Multiply(matrix.stored(), input);
    const auto [least, most] =
        std::minmax_element(matrix.values().begin(), matrix.values().end());
    // A quant and its block's offset may nearly cancel.
    const double bound = 1e30 * 1e-6 * (*most - *least);
    for (int n = 0; n < 16; ++n) {
      EXPECT_NEAR(output[n], 1e30 * matrix.values()[n * columns + 40], bound)
          << DTypeName(dtype);
    }
    for (int64_t i = 0; i < columns; ++i) {
      if (i / kRoundedColumns == 1) continue;
      EXPECT_NEAR(rounded.scale(i) * rounded.value(i), input[i], 1e-4);
    }
  }
}

TEST_P(IntegerKernelsTest, WhatIsNotFiniteShowsInEveryOutputOfItsRow) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const DType dtype : IntegerDTypes()) {
    const int64_t columns = WidthFor(dtype, 96);
    const RandomMatrix matrix(dtype, 19, columns, 11);
    for (const float bad :
         {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(),
          -std::numeric_limits<float>::quiet_NaN()}) {
      for (const int64_t column : {int64_t{0}, int64_t{37}, columns - 1}) {
        std::vector<float> input = RandomFloats(3 * columns, 12);
        const std::vector<float> clean = Multiply(matrix.stored(), input);
        input[columns + column] = bad;
        const std::vector<float> output = Multiply(matrix.stored(), input);
        for (int n = 0; n < 19; ++n) {
          EXPECT_EQ(output[n], clean[n]);
          EXPECT_FALSE(std::isfinite(output[19 + n]))
              << DTypeName(dtype) << ", " << bad << " in column " << column;
          EXPECT_EQ(output[38 + n], clean[38 + n]);
        }
      }
    }
  }
}

TEST_P(IntegerKernelsTest, PackedRowsTakeNoMoreThanTwoBytesOfABlock) {
  for (const DType dtype : IntegerDTypes()) {
    const int64_t blocks = 3;
    const int64_t columns = blocks * BlockElements(dtype);
    const int64_t stored = kernels().rows_at_once * blocks * BlockBytes(dtype);
    const int64_t packed = kernels().packed_bytes(dtype, columns);
    EXPECT_GE(packed, stored) << DTypeName(dtype);
    EXPECT_LE(packed, stored + kernels().rows_at_once * blocks * 2)
        << DTypeName(dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, IntegerKernelsTest,
                         testing::ValuesIn(AvailablePaths()),
                         [](const auto& path) { return path.param.name; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(IntegerKernelsTest);

TEST(IntegerKernelsForTest, VnniChangesNoBit) {
  if (!HasVnni() ||
      AvailableSimdLevel(SimdLevel::kAvx512) != SimdLevel::kAvx512) {
    GTEST_SKIP() << "this CPU has no AVX512-VNNI";
  }
  const IntegerKernels& without =
      *IntegerKernelsFor(SimdLevel::kAvx512, /*allow_vnni=*/false);
  const IntegerKernels& with = *IntegerKernelsFor(SimdLevel::kAvx512);
  ASSERT_NE(with.multiply_strip, without.multiply_strip);
  const RandomMatrix matrix(DType::kQ8_0, 21, 96, 13);
  Rounded rounded(without, RandomFloats(5 * 96, 14), 96);
  std::vector<float> outputs[2];
  for (const auto& [kernels, output] :
       {std::pair(&without, &outputs[0]), std::pair(&with, &outputs[1])}) {
    output->resize(5 * 21);
    const Packed packed(*kernels, matrix.stored());
    kernels->multiply_strip(packed.Strip(rounded, *output));
  }
  EXPECT_EQ(outputs[0], outputs[1]);
}

TEST(IntegerKernelsForTest, ScalarPathKeepsFloats) {
  EXPECT_EQ(IntegerKernelsFor(SimdLevel::kScalar), nullptr);
}

}  // namespace
}  // namespace sparseserve::cpu
