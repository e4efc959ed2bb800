#include "tests/engine/backend/random_matrix.h"

#include <cmath>
#include <cstring>
#include <random>

#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

// Where a block of a quantised dtype, or F16, has its half scales.
struct Halves {
  int first_byte;
  int count;
};
Halves HalvesOf(DType dtype) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {offsetof(BlockQ6_K, d), 1};
    default:
      return {0, 1};
  }
}

void MakeFinite(DType dtype, std::mt19937& random, std::byte* block) {
  std::normal_distribution<float> normal;
  if (dtype == DType::kF32) {
    const float value = normal(random);
    std::memcpy(block, &value, sizeof(value));
  } else if (dtype == DType::kBF16) {
    const uint16_t value = FloatToBFloat16(normal(random));
    std::memcpy(block, &value, sizeof(value));
  } else {
    // Half scales (or the element itself): sign, 2^-4 ... 2^-1, fraction.
    const Halves halves = HalvesOf(dtype);
    for (int i = 0; i < halves.count; ++i) {
      const uint16_t half = (random() & 0x83FF) | ((11 + random() % 4) << 10);
      std::memcpy(block + halves.first_byte + 2 * i, &half, sizeof(half));
    }
  }
}

}  // namespace

int64_t WidthFor(DType dtype, int64_t columns) {
  const int64_t block = BlockElements(dtype);
  return (columns + block - 1) / block * block;
}

RandomMatrix::RandomMatrix(DType dtype, int64_t rows, int64_t columns,
                           uint32_t seed, std::optional<int> byte)
    : values_(rows * columns) {
  const int64_t blocks = rows * columns / BlockElements(dtype);
  bytes_.resize(blocks * BlockBytes(dtype));
  std::mt19937 random(seed);
  for (std::byte& each : bytes_) {
    each = static_cast<std::byte>(byte.value_or(random()));
  }
  for (int64_t b = 0; b < blocks; ++b) {
    MakeFinite(dtype, random, bytes_.data() + b * BlockBytes(dtype));
  }
  stored_ = {bytes_.data(), dtype, rows, columns};
  DequantizeRow(dtype, bytes_.data(), rows * columns, values_.data());
}

std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(count);
  for (float& value : floats) value = normal(random);
  return floats;
}

double WorstError(const std::vector<float>& weight,
                  const std::vector<double>& input,
                  const std::vector<float>& actual, int64_t columns) {
  const int64_t outputs = weight.size() / columns;
  const int64_t rows = input.size() / columns;
  double worst = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < outputs; ++n) {
      double exact = 0;
      double magnitude = 0;
      for (int64_t k = 0; k < columns; ++k) {
        const double product = input[r * columns + k] * weight[n * columns + k];
        exact += product;
        magnitude += std::abs(product);
      }
      const double difference = std::abs(actual[r * outputs + n] - exact);
      const double error = difference == 0 ? 0 : difference / magnitude;
      if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
    }
  }
  return worst;
}

double WorstError(const std::vector<float>& weight,
                  const std::vector<float>& input,
                  const std::vector<float>& actual, int64_t columns) {
  return WorstError(weight, std::vector<double>(input.begin(), input.end()),
                    actual, columns);
}

}  // namespace sparseserve
