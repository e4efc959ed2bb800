// Every operation of the CUDA backend beside the CPU's in exact mode, on the
// same rounded numbers. Tests skip themselves where there is no GPU.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/create_backend.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Floats = std::vector<float>;

uint16_t ToBits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float FromBits(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// Numbers that bf16 has.
Floats Random(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats values(count);
  for (float& value : values) value = FromBits(ToBits(normal(random)));
  return values;
}

// The greatest difference, as a share of the greatest value.
double Difference(const Floats& found, const Floats& wanted) {
  EXPECT_EQ(found.size(), wanted.size());
  double greatest = 0;
  double worst = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    greatest = std::max(greatest, std::abs(double{wanted[i]}));
    const double off = std::abs(double{found[i]} - wanted[i]);
    if (!(off <= worst)) worst = std::isnan(off) ? HUGE_VAL : off;
  }
  return worst / greatest;
}

// Half a unit in the last of bf16's 8 bits, and as much for what was rounded
// on the way.
constexpr double kRounded = 1.0 / 256;

class CudaOperationsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CreateBackend({.device = "cuda"});
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
    cpu_ = CreateBackend({.compute_dtype = "f32"}).value();
    cuda_->BeginStep({.decode_rows = 0, .prefill_rows = 1});
  }

  Buffer Put(const Floats& values, DType dtype) {
    Buffer buffer = cuda_->Allocate(values.size() * BlockBytes(dtype)).value();
    if (dtype == DType::kF32) {
      cuda_->Upload(values.data(), buffer.bytes(), buffer.data());
      return buffer;
    }
    std::vector<uint16_t> bits(values.size());
    std::transform(values.begin(), values.end(), bits.begin(), ToBits);
    cuda_->Upload(bits.data(), buffer.bytes(), buffer.data());
    return buffer;
  }

  Floats Get(const Buffer& buffer, DType dtype) {
    Floats values(buffer.bytes() / BlockBytes(dtype));
    if (dtype == DType::kF32) {
      cuda_->Download(buffer.data(), buffer.bytes(), values.data());
      return values;
    }
    std::vector<uint16_t> bits(values.size());
    cuda_->Download(buffer.data(), buffer.bytes(), bits.data());
    std::transform(bits.begin(), bits.end(), values.begin(), FromBits);
    return values;
  }

  void ExpectNoError() {
    const absl::Status status = cuda_->EndStep();
    EXPECT_TRUE(status.ok()) << status;
    cuda_->BeginStep({.decode_rows = 0, .prefill_rows = 1});
  }

  std::unique_ptr<Backend> cuda_;
  std::unique_ptr<Backend> cpu_;
};

StoredMatrix Stored(const Floats& values, int64_t rows, int64_t columns) {
  return {reinterpret_cast<const std::byte*>(values.data()), DType::kF32, rows,
          columns};
}

TEST_F(CudaOperationsTest, EmbedsRows) {
  constexpr int64_t kVocabulary = 100;
  for (const int64_t columns : {32, 64, 576, 4096}) {
    const Floats table = Random(kVocabulary * columns, 1);
    const StoredMatrix stored = Stored(table, kVocabulary, columns);
    const auto on_cuda = cuda_->LoadWeight({&stored, 1}, WeightUse::kTable);
    const auto on_cpu = cpu_->LoadWeight({&stored, 1}, WeightUse::kTable);
    const std::vector<TokenId> tokens = {0, 99, 7, 7, 42};
    Buffer output = Put(Floats(tokens.size() * columns, 1.0f), DType::kF32);
    cuda_->Embed(**on_cuda, tokens, 1.5f, {output.as<float>(), 5, columns});
    Floats wanted(tokens.size() * columns);
    cpu_->Embed(**on_cpu, tokens, 1.5f, {wanted.data(), 5, columns});
    EXPECT_EQ(Get(output, DType::kF32), wanted) << columns;
    ExpectNoError();
  }
}

TEST_F(CudaOperationsTest, NormsRows) {
  for (const int64_t columns : {8, 72, 576, 4096, 8192}) {
    constexpr int64_t kRows = 7;
    const Floats input = Random(kRows * columns, 2);
    const Floats gain = Random(columns, 3);
    const Buffer from = Put(input, DType::kF32);
    const Buffer gains = Put(gain, DType::kF32);
    Buffer output = Put(Floats(kRows * columns), DType::kBF16);
    cuda_->RmsNorm({from.as<float>(), kRows, columns}, gains.as<float>(), 1e-5f,
                   {output.data(), DType::kBF16, kRows, columns});
    Floats wanted(kRows * columns);
    cpu_->RmsNorm({input.data(), kRows, columns}, gain.data(), 1e-5f,
                  {wanted.data(), kRows, columns});
    EXPECT_LE(Difference(Get(output, DType::kBF16), wanted), kRounded);

    const std::vector<int32_t> rows = {6, 0, 3};
    Buffer some = Put(Floats(3 * columns), DType::kBF16);
    cuda_->RmsNormOf(rows, {from.as<float>(), kRows, columns},
                     gains.as<float>(), 1e-5f,
                     {some.data(), DType::kBF16, 3, columns});
    Floats wanted_some(3 * columns);
    cpu_->RmsNormOf(rows, {input.data(), kRows, columns}, gain.data(), 1e-5f,
                    {wanted_some.data(), 3, columns});
    EXPECT_LE(Difference(Get(some, DType::kBF16), wanted_some), kRounded);

    const Floats result = Random(kRows * columns, 4);
    const Buffer results = Put(result, DType::kBF16);
    cuda_->AddRmsNorm({{results.data(), DType::kBF16, kRows, columns}},
                      gains.as<float>(), 1e-5f,
                      {from.as<float>(), kRows, columns});
    Floats sums = input;
    cpu_->AddRmsNorm({result.data(), kRows, columns}, gain.data(), 1e-5f,
                     {sums.data(), kRows, columns});
    EXPECT_LE(Difference(Get(from, DType::kF32), sums), 1e-5) << columns;
    ExpectNoError();
  }
}

TEST_F(CudaOperationsTest, MultipliesByWeights) {
  struct Shape {
    int64_t outputs, columns;
  };
  for (const auto& [outputs, columns] :
       {Shape{258, 128}, Shape{576, 192}, Shape{1, 32}, Shape{17000, 288},
        Shape{320, 4096}}) {
    const Floats weight = Random(outputs * columns, 5);
    const StoredMatrix stored = Stored(weight, outputs, columns);
    const auto on_cuda = cuda_->LoadWeight({&stored, 1}, WeightUse::kLayer);
    const auto on_cpu = cpu_->LoadWeight({&stored, 1}, WeightUse::kLayer);
    for (const int64_t rows : {1, 2, 3, 4, 5, 17, 64, 200}) {
      const Floats input = Random(rows * columns, 6);
      const Buffer from = Put(input, DType::kBF16);
      const ConstMatrixView view =
          MatrixView(from.data(), DType::kBF16, rows, columns);
      const Floats before = Random(rows * outputs, 7);
      const std::string what = std::to_string(outputs) + " x " +
                               std::to_string(columns) + ", rows " +
                               std::to_string(rows);
      const RowGroups groups = {.prefill_rows = rows};
      for (const bool accumulate : {false, true}) {
        Floats wanted = before;
        cpu_->Linear(**on_cpu, {input.data(), rows, columns}, groups,
                     accumulate, {wanted.data(), rows, outputs});
        const Buffer output = Put(before, DType::kF32);
        cuda_->Linear(**on_cuda, view, groups, accumulate,
                      {output.as<float>(), rows, outputs});
        EXPECT_LE(Difference(Get(output, DType::kF32), wanted), 1e-5)
            << what << (accumulate ? ", added" : "");
        if (accumulate) continue;
        const Buffer rounded = Put(before, DType::kBF16);
        cuda_->Linear(**on_cuda, view, groups, false,
                      {rounded.data(), DType::kBF16, rows, outputs});
        EXPECT_LE(Difference(Get(rounded, DType::kBF16), wanted), kRounded)
            << what << ", rounded";
      }
    }
    ExpectNoError();
  }
}

TEST_F(CudaOperationsTest, GatesRows) {
  for (const int64_t columns : {8, 192, 1536, 14336}) {
    constexpr int64_t kRows = 9;
    const Floats input = Random(kRows * 2 * columns, 8);
    const Buffer from = Put(input, DType::kBF16);
    const ConstMatrixView view =
        MatrixView(from.data(), DType::kBF16, kRows, 2 * columns);
    const Buffer output = Put(Floats(kRows * columns), DType::kBF16);
    const MatrixView to(output.data(), DType::kBF16, kRows, columns);
    Floats wanted(kRows * columns);
    cuda_->SwiGlu(view, to);
    cpu_->SwiGlu({input.data(), kRows, 2 * columns},
                 {wanted.data(), kRows, columns});
    EXPECT_LE(Difference(Get(output, DType::kBF16), wanted), kRounded);
    cuda_->GeGlu(view, to);
    cpu_->GeGlu({input.data(), kRows, 2 * columns},
                {wanted.data(), kRows, columns});
    EXPECT_LE(Difference(Get(output, DType::kBF16), wanted), kRounded);
    ExpectNoError();
  }
}

TEST_F(CudaOperationsTest, CapsValues) {
  Floats values = Random(1032, 9);
  for (float& value : values) value *= 50;
  const Buffer buffer = Put(values, DType::kF32);
  cuda_->SoftCap(30.0f, {buffer.as<float>(), 4, 258});
  cpu_->SoftCap(30.0f, {values.data(), 4, 258});
  EXPECT_LE(Difference(Get(buffer, DType::kF32), values), 1e-6);
  ExpectNoError();
}

// Queries in place, keys and values in pages, what was there before gone.
TEST_F(CudaOperationsTest, TurnsQueriesAndStoresKeysAndValues) {
  struct Case {
    int32_t head_dim, heads, kv_heads;
    RopePairs pairs;
    bool has_bias, has_norm, turns;
  };
  constexpr int32_t kPages = 5;
  constexpr int32_t kPositions = 300;
  for (const Case& c :
       {Case{64, 4, 2, RopePairs::kAdjacent, false, false, true},
        Case{64, 3, 1, RopePairs::kHalves, true, false, true},
        Case{128, 8, 2, RopePairs::kHalves, false, true, true},
        Case{128, 4, 4, RopePairs::kAdjacent, true, true, true},
        Case{64, 9, 3, RopePairs::kHalves, false, false, false}}) {
    for (const int64_t rows : {1, 3, 100, 270}) {
      const std::string what = "head_dim " + std::to_string(c.head_dim) +
                               ", rows " + std::to_string(rows);
      const int64_t columns = (c.heads + 2 * c.kv_heads) * c.head_dim;
      const Floats qkv = Random(rows * columns, 10);
      const Floats bias = Random(columns, 11);
      const Floats gain = Random(2 * c.head_dim, 12);
      Floats cosines(kPositions * c.head_dim / 2);
      Floats sines(cosines.size());
      for (size_t i = 0; i < cosines.size(); ++i) {
        cosines[i] = std::cos(0.1f * static_cast<float>(i));
        sines[i] = std::sin(0.1f * static_cast<float>(i));
      }
      std::vector<int32_t> positions;
      std::vector<int64_t> slots;
      const std::vector<int32_t> pages = {3, 0, 4, 1, 2};
      for (int32_t r = 0; r < rows; ++r) {
        positions.push_back(r + 20);
        slots.push_back(int64_t{pages[positions[r] / kPageTokens]} *
                            kPageTokens +
                        positions[r] % kPageTokens);
      }
      const int64_t page_floats =
          int64_t{kPages} * c.kv_heads * kPageTokens * c.head_dim;
      RopeAndStoreArgs args;
      args.heads = c.heads;
      args.norm_epsilon = 1e-6f;
      args.positions = positions;
      args.kv_slots = slots;
      args.pairs = c.pairs;
      args.kv.pages = kPages;
      args.kv.kv_heads = c.kv_heads;
      args.kv.head_dim = c.head_dim;

      Floats wanted = qkv;
      Floats keys(page_floats);
      Floats values(page_floats);
      RopeAndStoreArgs on_cpu = args;
      on_cpu.qkv = {wanted.data(), rows, columns};
      if (c.has_bias) on_cpu.bias = bias.data();
      if (c.has_norm) {
        on_cpu.query_gain = gain.data();
        on_cpu.key_gain = gain.data() + c.head_dim;
      }
      if (c.turns) {
        on_cpu.cosines = cosines.data();
        on_cpu.sines = sines.data();
      }
      on_cpu.kv.keys = reinterpret_cast<std::byte*>(keys.data());
      on_cpu.kv.values = reinterpret_cast<std::byte*>(values.data());
      cpu_->RopeAndStore(on_cpu);

      const Buffer rows_on_cuda = Put(qkv, DType::kBF16);
      const Buffer bias_on_cuda = Put(bias, DType::kF32);
      const Buffer gain_on_cuda = Put(gain, DType::kF32);
      const Buffer cosines_on_cuda = Put(cosines, DType::kF32);
      const Buffer sines_on_cuda = Put(sines, DType::kF32);
      const Buffer keys_on_cuda = Put(Floats(page_floats), DType::kBF16);
      const Buffer values_on_cuda = Put(Floats(page_floats, NAN), DType::kBF16);
      args.qkv = {rows_on_cuda.data(), DType::kBF16, rows, columns};
      if (c.has_bias) args.bias = bias_on_cuda.as<float>();
      if (c.has_norm) {
        args.query_gain = gain_on_cuda.as<float>();
        args.key_gain = gain_on_cuda.as<float>() + c.head_dim;
      }
      if (c.turns) {
        args.cosines = cosines_on_cuda.as<float>();
        args.sines = sines_on_cuda.as<float>();
      }
      args.kv.dtype = DType::kBF16;
      args.kv.keys = keys_on_cuda.data();
      args.kv.values = values_on_cuda.data();
      cuda_->RopeAndStore(args);

      Floats queries;
      Floats wanted_queries;
      const Floats found = Get(rows_on_cuda, DType::kBF16);
      for (int64_t r = 0; r < rows; ++r) {
        const auto begin = r * columns;
        const auto end = begin + c.heads * c.head_dim;
        queries.insert(queries.end(), found.begin() + begin,
                       found.begin() + end);
        wanted_queries.insert(wanted_queries.end(), wanted.begin() + begin,
                              wanted.begin() + end);
      }
      EXPECT_LE(Difference(queries, wanted_queries), kRounded) << what;
      EXPECT_LE(Difference(Get(keys_on_cuda, DType::kBF16), keys), kRounded)
          << what;
      // A page that was begun here has zeros behind its last value; one that
      // was begun before keeps what it has there, and one of nobody too.
      Floats found_values = Get(values_on_cuda, DType::kBF16);
      for (size_t i = 0; i < found_values.size(); ++i) {
        const int64_t token =
            static_cast<int64_t>(i) / c.head_dim % kPageTokens;
        const int64_t page =
            static_cast<int64_t>(i) / c.head_dim / kPageTokens / c.kv_heads;
        const auto block = static_cast<int64_t>(
            std::find(pages.begin(), pages.end(), page) - pages.begin());
        const int64_t position = block * kPageTokens + token;
        const bool begun = block > 0 && block <= positions.back() / kPageTokens;
        const bool stored = position >= 20 && position <= positions.back();
        EXPECT_EQ(std::isnan(found_values[i]), !stored && !begun)
            << what << ", position " << position;
        if (std::isnan(found_values[i])) found_values[i] = 0;
      }
      EXPECT_LE(Difference(found_values, values), kRounded) << what;
      ExpectNoError();
    }
  }
}

}  // namespace
}  // namespace sparseserve
