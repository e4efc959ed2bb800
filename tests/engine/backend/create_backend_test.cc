// Products of the default mode on a CPU that multiplies bf16. On another CPU
// the same backend multiplies in float, within the same bounds.

#include "engine/backend/create_backend.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "engine/tensor/quant_blocks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr int64_t kRows = 80;
constexpr int64_t kColumns = 96;

std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(count);
  for (float& value : floats) value = normal(random);
  return floats;
}

class Bfloat16LinearTest : public testing::Test {
 protected:
  Bfloat16LinearTest()
      : values_(RandomFloats(kRows * kColumns, 1)),
        backend_(
            CreateBackend({.threads = 2, .compute_dtype = "bf16"}).value()),
        weight_(Load(WeightUse::kLayer)) {}

  std::unique_ptr<Weight> Load(WeightUse use) {
    return backend_
        ->LoadWeight({{reinterpret_cast<const std::byte*>(values_.data()),
                       DType::kF32, kRows, kColumns}},
                     use)
        .value();
  }

  std::vector<float> Multiply(const Weight& weight, std::vector<float> input,
                              RowGroups groups, bool accumulate = false) {
    const int64_t rows = groups.decode_rows + groups.prefill_rows;
    std::vector<float> output(rows * kRows, accumulate ? 1.0f : 0.0f);
    backend_->Linear(weight, MatrixView{input.data(), rows, kColumns}, groups,
                     accumulate, {output.data(), rows, kRows});
    return output;
  }

  bool HasHardware() const {
    return backend_->device().prefill_dtype == DType::kBF16;
  }

  // Largest error relative to the sum of the products' magnitudes.
  double WorstError(const std::vector<float>& input,
                    const std::vector<float>& output, double offset) const {
    double worst = 0;
    for (size_t i = 0; i < output.size(); ++i) {
      double exact = offset;
      double magnitude = 0;
      for (int64_t k = 0; k < kColumns; ++k) {
        const double product =
            static_cast<double>(input[i / kRows * kColumns + k]) *
            values_[i % kRows * kColumns + k];
        exact += product;
        magnitude += std::abs(product);
      }
      const double error = std::abs(output[i] - exact) / magnitude;
      if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
    }
    return worst;
  }

  const std::vector<float> values_;
  const std::unique_ptr<Backend> backend_;
  const std::unique_ptr<Weight> weight_;
};

TEST_F(Bfloat16LinearTest, PrefillIsWithinTwoRoundingsOfDoublePrecision) {
  // Whole chunks, padded ones, and both.
  for (const int64_t rows : {1, 15, 33, 64, 127, 128, 300}) {
    const std::vector<float> input = RandomFloats(rows * kColumns, rows);
    const RowGroups groups = {.prefill_rows = rows};
    // Each factor is rounded to 8 bits: at most 2^-9 each, and 2^-8 together.
    EXPECT_LT(WorstError(input, Multiply(*weight_, input, groups), 0), 1 / 256.)
        << rows;
    EXPECT_LT(WorstError(input, Multiply(*weight_, input, groups, true), 1),
              1 / 256.)
        << rows;
  }
}

TEST_F(Bfloat16LinearTest, DecodeRowsBesidePrefillStayExact) {
  const std::vector<float> input = RandomFloats(70 * kColumns, 3);
  const std::vector<float> alone(input.begin(), input.begin() + 3 * kColumns);
  const std::vector<float> mixed =
      Multiply(*weight_, input, {.decode_rows = 3, .prefill_rows = 67});
  EXPECT_EQ(std::vector<float>(mixed.begin(), mixed.begin() + 3 * kRows),
            Multiply(*weight_, alone, {.decode_rows = 3}));
  EXPECT_LT(WorstError(alone, Multiply(*weight_, alone, {.decode_rows = 3}), 0),
            1e-6);
}

TEST_F(Bfloat16LinearTest, PrefillRowIsTheSameToTheBitInAnyBatch) {
  // Two whole tall chunks, so that each row was in every kind of chunk.
  const std::vector<float> input = RandomFloats(130 * kColumns, 7);
  for (const bool accumulate : {false, true}) {
    const std::vector<float> together =
        Multiply(*weight_, input, {.prefill_rows = 130}, accumulate);
    for (int64_t rows = 1; rows <= 66; ++rows) {
      const int64_t first = rows * 17 % (130 - rows);
      const std::vector<float> some(input.begin() + first * kColumns,
                                    input.begin() + (first + rows) * kColumns);
      EXPECT_EQ(Multiply(*weight_, some, {.prefill_rows = rows}, accumulate),
                std::vector<float>(together.begin() + first * kRows,
                                   together.begin() + (first + rows) * kRows))
          << rows << " rows from " << first;
    }
  }
}

TEST_F(Bfloat16LinearTest, OnlyLayerWeightsHaveACopyInBfloat16) {
  const auto table = Load(WeightUse::kFewRows);
  EXPECT_LT(table->bytes(), kRows * kColumns);
  if (HasHardware()) {
    EXPECT_GE(weight_->bytes(), kRows * kColumns * 2);
  }
  const std::vector<float> input = RandomFloats(64 * kColumns, 4);
  EXPECT_LT(WorstError(input, Multiply(*table, input, {.prefill_rows = 64}), 0),
            1e-6);
}

TEST(CreateBackendTest, ThreadsDoNotShowInTheResult) {
  const std::vector<float> values = RandomFloats(kRows * kColumns, 5);
  std::vector<float> input = RandomFloats(200 * kColumns, 6);
  for (const char* dtype : {"f32", "bf16"}) {
    std::vector<float> outputs[2];
    for (const int threads : {1, 3}) {
      const auto backend =
          CreateBackend({.threads = threads, .compute_dtype = dtype}).value();
      EXPECT_EQ(backend->device().threads, threads);
      const auto weight =
          backend
              ->LoadWeight({{reinterpret_cast<const std::byte*>(values.data()),
                             DType::kF32, kRows, kColumns}},
                           WeightUse::kLayer)
              .value();
      std::vector<float>& output = outputs[threads / 2];
      output.resize(200 * kRows);
      backend->Linear(*weight, MatrixView{input.data(), 200, kColumns},
                      {.decode_rows = 8, .prefill_rows = 192}, false,
                      {output.data(), 200, kRows});
    }
    EXPECT_EQ(outputs[0], outputs[1]) << dtype;
  }
}

TEST(CreateBackendTest, TellsProductsAndKvDtypeApart) {
  const auto exact = CreateBackend({.threads = 1, .compute_dtype = "f32"});
  EXPECT_EQ((*exact)->device().kv_dtype, DType::kF32);
  const auto rounded =
      CreateBackend({.threads = 1, .compute_dtype = "bf16", .simd = "scalar"});
  EXPECT_EQ((*rounded)->device().kv_dtype, DType::kBF16);
  EXPECT_EQ((*rounded)->device().simd, "scalar");
  EXPECT_EQ((*rounded)->device().prefill_dtype, DType::kF32);
}

TEST(CreateBackendTest, NamesTheOptionItsValueAndItsRange) {
  const struct {
    BackendOptions options;
    const char* message;
  } cases[] = {
      {{.threads = -1}, "threads is -1; allowed: 0 ... 256"},
      {{.threads = 257}, "threads is 257; allowed: 0 ... 256"},
      {{.compute_dtype = "f16"}, "compute_dtype is \"f16\"; allowed: auto"},
      {{.simd = "neon"}, "simd is \"neon\"; allowed: auto"},
      {{.max_rows = 0}, "max_rows is 0; allowed: 1 ... 65536"},
  };
  for (const auto& bad : cases) {
    const absl::Status status = CreateBackend(bad.options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(bad.message));
  }
}

}  // namespace
}  // namespace sparseserve
