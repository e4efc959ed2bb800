// Norm, activation, rotation and storage against double precision.

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/tensor/quant_blocks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"

namespace sparseserve {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> RandomFloats(int64_t count, uint32_t seed, float deviation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> floats(count);
  for (float& value : floats) value = normal(random);
  return floats;
}

using RowOperationsTest = BackendTest;

TEST_P(RowOperationsTest, RmsNormEqualsDoublePrecision) {
  for (const int64_t columns : {8, 37, 64, 576}) {
    constexpr int64_t kRows = 19;
    std::vector<float> input = RandomFloats(kRows * columns, 1, 2.0f);
    const std::vector<float> gain = RandomFloats(columns, 2, 1.0f);
    std::vector<float> output(kRows * columns);
    backend().RmsNorm(MatrixView{input.data(), kRows, columns}, gain.data(),
                      1e-5f, {output.data(), kRows, columns});
    for (int64_t r = 0; r < kRows; ++r) {
      double squares = 0;
      for (int64_t c = 0; c < columns; ++c) {
        squares += std::pow(input[r * columns + c], 2);
      }
      const double norm = std::sqrt(squares / columns + 1e-5);
      for (int64_t c = 0; c < columns; ++c) {
        const double expected = input[r * columns + c] / norm * gain[c];
        ASSERT_NEAR(output[r * columns + c], expected,
                    1e-6 * std::abs(expected) + 1e-9);
      }
    }
  }
}

TEST_P(RowOperationsTest, AddRmsNormAddsWhatRmsNormWrites) {
  for (const int64_t columns : {8, 37, 576}) {
    constexpr int64_t kRows = 11;
    std::vector<float> input = RandomFloats(kRows * columns, 1, 2.0f);
    const std::vector<float> gain = RandomFloats(columns, 2, 1.0f);
    const std::vector<float> before = RandomFloats(kRows * columns, 3, 1.0f);
    std::vector<float> normed(kRows * columns);
    std::vector<float> output = before;
    const MatrixView view = {input.data(), kRows, columns};
    backend().RmsNorm(view, gain.data(), 1e-5f,
                      {normed.data(), kRows, columns});
    backend().AddRmsNorm(view, gain.data(), 1e-5f,
                         {output.data(), kRows, columns});
    for (size_t i = 0; i < output.size(); ++i) {
      ASSERT_NEAR(output[i], double{before[i]} + normed[i],
                  1e-6 * (std::abs(before[i]) + std::abs(normed[i])));
    }
  }
}

TEST_P(RowOperationsTest, CorrectAddsDifferencesToTheRowsOfEachHead) {
  constexpr int64_t kRows = 21;
  for (const int32_t columns : {8, 24, 37}) {  // of a KV head
    const int64_t width = int64_t{3} * columns;
    const std::vector<float> before = RandomFloats(kRows * width, 1, 1.0f);
    const std::vector<float> attended = RandomFloats(kRows * width, 2, 1.0f);
    // Two heads side by side with borders of their own, one row, and one that
    // the layer is too early for.
    const std::vector<RowCorrection> corrections = {
        {.row = 0, .rows = 8, .kv_head = 0, .first_layer = 3},
        {.row = 2, .rows = 7, .kv_head = 2, .first_layer = 0},
        {.row = 8, .rows = 1, .kv_head = 0, .first_layer = 2},
        {.row = 10, .rows = 11, .kv_head = 2, .first_layer = 4}};
    std::vector<float> output = before;
    backend().Correct(
        {.corrections = corrections,
         .layer = 3,
         .kv_heads = 3,
         .attended = ConstMatrixView(attended.data(), kRows, width),
         .output = {output.data(), kRows, width}});
    const auto corrector = [](int64_t row, int64_t head) -> int64_t {
      if (head == 0 && row <= 8) return row < 8 ? 0 : 8;
      return head == 2 && row >= 2 && row < 9 ? 2 : -1;
    };
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t c = 0; c < width; ++c) {
        const int64_t from = corrector(row, c / columns);
        const double wanted = from < 0
                                  ? before[row * width + c]
                                  : before[row * width + c] +
                                        (double{attended[from * width + c]} -
                                         before[from * width + c]);
        ASSERT_NEAR(output[row * width + c], wanted, 1e-6)
            << "row " << row << ", column " << c;
      }
    }
  }
}

TEST_P(RowOperationsTest, GeGluEqualsDoublePrecision) {
  for (const int64_t columns : {1, 15, 96}) {
    constexpr int64_t kRows = 9;
    std::vector<float> input = RandomFloats(kRows * 2 * columns, 3, 3.0f);
    std::vector<float> output(kRows * columns);
    backend().GeGlu(MatrixView{input.data(), kRows, 2 * columns},
                    {output.data(), kRows, columns});
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const double gate = input[r * 2 * columns + c];
        const double up = input[r * 2 * columns + columns + c];
        const double inner = std::sqrt(2 / 3.14159265358979) *
                             (gate + 0.044715 * gate * gate * gate);
        // (1 + tanh(x)) / 2, without its cancellation.
        const double expected = gate / (1 + std::exp(-2 * inner)) * up;
        ASSERT_NEAR(output[r * columns + c], expected,
                    1e-6 * std::abs(expected) + 1e-9);
      }
    }
  }
}

TEST_P(RowOperationsTest, GeGluSaturatesAndKeepsNan) {
  const std::vector<float> gates = {-1e30f, -100, -20, 20, 100, 1e30f, kNan};
  std::vector<float> input = gates;
  input.insert(input.end(), gates.size(), 1.0f);
  std::vector<float> output(gates.size());
  const int64_t columns = gates.size();
  backend().GeGlu(MatrixView{input.data(), 1, 2 * columns},
                  {output.data(), 1, columns});
  for (int i : {0, 1, 2}) EXPECT_NEAR(output[i], 0, 1e-30);
  for (int i : {3, 4, 5}) EXPECT_EQ(output[i], gates[i]);
  EXPECT_TRUE(std::isnan(output[6]));
}

TEST_P(RowOperationsTest, SoftCapEqualsDoublePrecision) {
  for (const float cap : {0.5f, 30.0f}) {
    for (const float deviation : {1e-4f, 0.1f, 1.0f, 100.0f}) {
      constexpr int64_t kRows = 3;
      constexpr int64_t kColumns = 331;
      std::vector<float> values = RandomFloats(kRows * kColumns, 5, deviation);
      const std::vector<float> before = values;
      backend().SoftCap(cap, {values.data(), kRows, kColumns});
      for (size_t i = 0; i < values.size(); ++i) {
        const double expected = cap * std::tanh(double{before[i]} / cap);
        ASSERT_NEAR(values[i], expected, 1e-6 * std::abs(expected))
            << before[i] << " capped at " << cap;
      }
    }
  }
}

TEST_P(RowOperationsTest, SoftCapSaturatesAndKeepsNan) {
  std::vector<float> values = {-kInfinity, -1e30f, 0, 1e30f, kInfinity, kNan};
  backend().SoftCap(30, {values.data(), 1, 6});
  EXPECT_EQ(values[0], -30);
  EXPECT_EQ(values[1], -30);
  EXPECT_EQ(values[2], 0);
  EXPECT_EQ(values[3], 30);
  EXPECT_EQ(values[4], 30);
  EXPECT_TRUE(std::isnan(values[5]));
}

TEST_P(RowOperationsTest, EmbedScalesTheTableRows) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kColumns = 96;
  const std::vector<float> table = RandomFloats(kRows * kColumns, 6, 1.0f);
  const StoredMatrix stored = {
      .data = reinterpret_cast<const std::byte*>(table.data()),
      .dtype = DType::kF32,
      .rows = kRows,
      .columns = kColumns};
  const auto weight = backend().LoadWeight({&stored, 1}, WeightUse::kFewRows);
  ASSERT_TRUE(weight.ok()) << weight.status();
  const std::vector<TokenId> tokens = {4, 0, 4};
  std::vector<float> output(tokens.size() * kColumns);
  for (const float scale : {1.0f, 24.0f}) {
    backend().Embed(**weight, tokens, scale, {output.data(), 3, kColumns});
    for (size_t row = 0; row < tokens.size(); ++row) {
      for (int64_t c = 0; c < kColumns; ++c) {
        ASSERT_EQ(output[row * kColumns + c],
                  table[tokens[row] * kColumns + c] * scale);
      }
    }
  }
}

TEST_P(RowOperationsTest, SwiGluEqualsDoublePrecision) {
  for (const int64_t columns : {1, 15, 96}) {
    constexpr int64_t kRows = 9;
    std::vector<float> input = RandomFloats(kRows * 2 * columns, 3, 8.0f);
    std::vector<float> output(kRows * columns);
    backend().SwiGlu(MatrixView{input.data(), kRows, 2 * columns},
                     {output.data(), kRows, columns});
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const double gate = input[r * 2 * columns + c];
        const double up = input[r * 2 * columns + columns + c];
        const double expected = gate / (1 + std::exp(-gate)) * up;
        ASSERT_NEAR(output[r * columns + c], expected,
                    1e-6 * std::abs(expected) + 1e-12);
      }
    }
  }
}

TEST_P(RowOperationsTest, SwiGluSaturatesAndKeepsNan) {
  const std::vector<float> gates = {-1e30f, -100, -88, 88, 100, 1e30f, kNan};
  std::vector<float> input = gates;
  input.insert(input.end(), gates.size(), 1.0f);
  std::vector<float> output(gates.size());
  const int64_t columns = gates.size();
  backend().SwiGlu(MatrixView{input.data(), 1, 2 * columns},
                   {output.data(), 1, columns});
  EXPECT_NEAR(output[0], 0, 1e-30);
  EXPECT_NEAR(output[1], 0, 1e-30);
  EXPECT_NEAR(output[2], 0, 1e-30);
  EXPECT_EQ(output[3], 88);
  EXPECT_EQ(output[4], 100);
  EXPECT_EQ(output[5], 1e30f);
  EXPECT_TRUE(std::isnan(output[6]));
}

// Slots that fill the first page, whose other keys are as they were.
constexpr int64_t kOthers[] = {30, 64, 63};

// Two query heads and one KV head of `head_dim`, three rows.
struct RopeCase {
  explicit RopeCase(int head_dim, DType dtype)
      : qkv(RandomFloats(3 * 4 * head_dim, 4, 1.0f)) {
    for (int position = 0; position < 8; ++position) {
      for (int i = 0; i < head_dim / 2; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * i / head_dim);
        cosines.push_back(std::cos(angle));
        sines.push_back(std::sin(angle));
      }
    }
    const int64_t bytes = 2 * kPageTokens * head_dim * BlockBytes(dtype);
    keys.resize(bytes);
    values.resize(bytes);
    args.heads = 2;
    args.positions = positions;
    args.kv_slots = slots;
    args.cosines = cosines.data();
    args.sines = sines.data();
    args.qkv = {qkv.data(), 3, 4 * head_dim};
    args.kv = {.keys = keys.data(),
               .values = values.data(),
               .dtype = dtype,
               .pages = 2,
               .kv_heads = 1,
               .head_dim = head_dim};
  }

  float Stored(const std::vector<std::byte>& from, int64_t index) const {
    if (args.kv.dtype == DType::kF32) {
      return reinterpret_cast<const float*>(from.data())[index];
    }
    return BFloat16ToFloat(
        reinterpret_cast<const uint16_t*>(from.data())[index]);
  }

  std::vector<float> qkv, cosines, sines;
  std::vector<std::byte> keys, values;
  const std::vector<int32_t> positions = {0, 5, 7};
  const std::vector<int64_t> slots = {64 + 3, 0, 63};
  RopeAndStoreArgs args;
};

TEST_P(RowOperationsTest, RopeRotatesPairsAndStoresAtTheSlot) {
  for (const int head_dim : {8, 64, 80, 128}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      RopeCase rope(head_dim, dtype);
      const std::vector<float> before = rope.qkv;
      backend().RopeAndStore(rope.args);
      // bf16 keeps 8 bits.
      const double stored = dtype == DType::kF32 ? 1e-6 : 1 / 128.;
      for (int row = 0; row < 3; ++row) {
        const int64_t slot = rope.slots[row] * head_dim;
        for (int i = 0; i < head_dim; ++i) {
          const int64_t table = rope.positions[row] * (head_dim / 2) + i / 2;
          const double c = rope.cosines[table];
          const double s = rope.sines[table];
          const auto rotated = [&](int head) {
            const float* pair =
                &before[(row * 4 + head) * head_dim + i / 2 * 2];
            return i % 2 == 0 ? pair[0] * c - pair[1] * s
                              : pair[1] * c + pair[0] * s;
          };
          for (int head : {0, 1}) {
            ASSERT_NEAR(rope.qkv[(row * 4 + head) * head_dim + i],
                        rotated(head), 2e-6);
          }
          ASSERT_NEAR(rope.Stored(rope.keys, slot + i), rotated(2),
                      stored * std::abs(rotated(2)) + 1e-6);
          const double value = before[(row * 4 + 3) * head_dim + i];
          ASSERT_NEAR(rope.Stored(rope.values, slot + i), value,
                      stored * std::abs(value));
        }
      }
    }
  }
}

// The second row is the first page's first key, the third its last.
TEST_P(RowOperationsTest, StoringAPagesLastKeyTakesItsBoundsFromAllItsKeys) {
  for (const int head_dim : {8, 24, 64, 80}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << head_dim << DTypeName(dtype));
      RopeCase rope(head_dim, dtype);
      const std::vector<float> old = RandomFloats(64 * head_dim, 9, 1.0f);
      for (int i = 0; i < 64 * head_dim; ++i) {
        if (dtype == DType::kF32) {
          reinterpret_cast<float*>(rope.keys.data())[i] = old[i];
        } else {
          reinterpret_cast<uint16_t*>(rope.keys.data())[i] =
              FloatToBFloat16(old[i]);
        }
      }
      // What a page had before must not show, be it greater or no number.
      for (const std::byte poison : {std::byte{0x7E}, std::byte{0xFF}}) {
        std::vector<std::byte> bounds(2 * 2 * head_dim * BlockBytes(dtype),
                                      poison);
        rope.args.kv.key_bounds = bounds.data();
        backend().RopeAndStore(rope.args);
        for (int i = 0; i < head_dim; ++i) {
          float greatest = -kInfinity;
          float least = kInfinity;
          for (int key = 0; key < 64; ++key) {
            const float stored = rope.Stored(rope.keys, key * head_dim + i);
            greatest = std::max(greatest, stored);
            least = std::min(least, stored);
          }
          EXPECT_EQ(rope.Stored(bounds, i), greatest);
          EXPECT_EQ(rope.Stored(bounds, head_dim + i), least);
        }
        // The other page is not full.
        for (size_t i = bounds.size() / 2; i < bounds.size(); ++i) {
          EXPECT_EQ(bounds[i], poison);
        }
      }
    }
  }
}

// Else a page with such a key could be left out, and nobody would know.
TEST_P(RowOperationsTest, BoundsOfKeysThatAreNoNumbersAreNone) {
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    for (const int key : {0, 1, 62}) {
      RopeCase rope(8, DType::kF32);
      reinterpret_cast<float*>(rope.keys.data())[key * 8 + 3] = bad;
      std::vector<std::byte> bounds(2 * 2 * 8 * 4);
      rope.args.kv.key_bounds = bounds.data();
      rope.args.kv_slots = kOthers;
      backend().RopeAndStore(rope.args);
      for (int i = 0; i < 8; ++i) {
        EXPECT_EQ(std::isnan(rope.Stored(bounds, i)), i == 3);
        EXPECT_EQ(std::isnan(rope.Stored(bounds, 8 + i)), i == 3);
      }
    }
  }
}

// A head after bias, norm and rotation of halves, in double precision.
std::vector<double> PreparedHead(const float* head, const float* bias,
                                 const float* gain, const RopeCase& rope,
                                 int row, int head_dim) {
  std::vector<double> values(head_dim);
  double squares = 0;
  for (int i = 0; i < head_dim; ++i) {
    values[i] = head[i] + (bias == nullptr ? 0.0 : double{bias[i]});
    squares += values[i] * values[i];
  }
  for (int i = 0; gain != nullptr && i < head_dim; ++i) {
    values[i] *= gain[i] / std::sqrt(squares / head_dim + 1e-5);
  }
  const int half = head_dim / 2;
  for (int i = 0; rope.args.cosines != nullptr && i < half; ++i) {
    const double c = rope.cosines[rope.positions[row] * half + i];
    const double s = rope.sines[rope.positions[row] * half + i];
    const double x = values[i];
    const double y = values[half + i];
    values[i] = x * c - y * s;
    values[half + i] = y * c + x * s;
  }
  return values;
}

TEST_P(RowOperationsTest, RopeAddsBiasThenNormsThenRotatesHalves) {
  for (const int head_dim : {8, 64, 80, 256}) {
    const std::vector<float> bias = RandomFloats(4 * head_dim, 7, 1.0f);
    const std::vector<float> gains = RandomFloats(2 * head_dim, 8, 1.0f);
    // One bit each for bias, norm and rotation.
    for (int parts = 0; parts < 8; ++parts) {
      RopeCase rope(head_dim, DType::kF32);
      rope.args.pairs = RopePairs::kHalves;
      rope.args.norm_epsilon = 1e-5f;
      if (parts & 1) rope.args.bias = bias.data();
      if (parts & 2) rope.args.query_gain = gains.data();
      if (parts & 2) rope.args.key_gain = gains.data() + head_dim;
      if (!(parts & 4)) rope.args.cosines = rope.args.sines = nullptr;
      const std::vector<float> before = rope.qkv;
      backend().RopeAndStore(rope.args);
      for (int row = 0; row < 3; ++row) {
        const int64_t slot = rope.slots[row] * head_dim;
        for (int head = 0; head < 4; ++head) {
          const int64_t at = (row * 4 + head) * head_dim;
          const float* head_bias =
              parts & 1 ? bias.data() + head * head_dim : nullptr;
          std::vector<double> wanted =
              PreparedHead(&before[at], head_bias,
                           head < 2 ? rope.args.query_gain : rope.args.key_gain,
                           rope, row, head_dim);
          for (int i = 0; i < head_dim; ++i) {
            const double found = head < 2 ? rope.qkv[at + i]
                                 : head == 2
                                     ? rope.Stored(rope.keys, slot + i)
                                     : rope.Stored(rope.values, slot + i);
            // Values are neither normed nor rotated.
            if (head == 3) {
              wanted[i] =
                  before[at + i] + (parts & 1 ? double{head_bias[i]} : 0.0);
            }
            ASSERT_NEAR(found, wanted[i], 5e-6) << "parts " << parts;
          }
        }
      }
    }
  }
}

TEST_P(RowOperationsTest, StoredBfloat16IsRoundedToNearestEven) {
  RopeCase rope(8, DType::kBF16);
  const std::vector<float> hard = {
      1.00390625f,   // halfway: down to the even 1
      1.01171875f,   // halfway: up to the even 1.015625
      -1.00390626f,  // above halfway
      kNan,         kInfinity, -kInfinity, 3.4e38f, 1e-40f};
  std::copy(hard.begin(), hard.end(), rope.qkv.begin() + 3 * 8);
  backend().RopeAndStore(rope.args);
  for (size_t i = 0; i < hard.size(); ++i) {
    const float expected = BFloat16ToFloat(FloatToBFloat16(hard[i]));
    const float actual = rope.Stored(rope.values, rope.slots[0] * 8 + i);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(actual));
    } else {
      EXPECT_EQ(actual, expected) << hard[i];
    }
  }
}

TEST_P(RowOperationsTest, AllocatedMemoryIsZeroAndAligned) {
  for (const int64_t bytes : {1, 63, 64, 1000}) {
    const Buffer buffer = backend().Allocate(bytes).value();
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    for (int64_t i = 0; i < bytes; ++i) {
      ASSERT_EQ(buffer.data()[i], std::byte{0});
    }
  }
}

TEST_P(RowOperationsTest, ImpossibleAllocationIsResourceExhausted) {
  EXPECT_EQ(backend().Allocate(int64_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
}

INSTANTIATE_TEST_SUITE_P(Paths, RowOperationsTest,
                         testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
