// Model files with random faults, loaded as a server would load them: each is
// refused with a message, or serves.

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "engine/engine.h"
#include "gtest/gtest.h"
#include "tests/testing/largest_request.h"
#include "tests/testing/mutation.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

// How many files to try, if not this many.
constexpr char kCountVariable[] = "SPARSESERVE_MUTATED_FILES";
constexpr int kDefaultCount = 1000;

// Beyond a file's size, what a model takes at most in one piece: scratch and
// tables that its configuration asks for.
constexpr size_t kMostExtraBytes = 8 << 20;

int Count() {
  const char* text = std::getenv(kCountVariable);
  int count = kDefaultCount;
  if (text != nullptr) {
    EXPECT_TRUE(absl::SimpleAtoi(text, &count)) << text;
  }
  return count;
}

// Every quantised dtype in one model.
testing::TinyModel ModelToMutate() {
  return {.layers = 1,
          .hidden = 256,
          .heads = 2,
          .kv_heads = 1,
          .head_dim = 16,
          .mlp_hidden = 32,
          .tied = false,
          .dtype = DType::kQ8_0,
          .part_dtypes = {{"token_embd", DType::kQ4_0},
                          {"attn_q", DType::kQ4_K},
                          {"attn_k", DType::kQ5_K},
                          {"attn_v", DType::kQ6_K},
                          {"attn_output", DType::kQ5_0},
                          {"ffn_up", DType::kQ4_1},
                          {"ffn_down", DType::kQ5_1},
                          {"output", DType::kQ4_K}}};
}

TEST(MutatedModelTest, IsRefusedWithAMessageOrServes) {
  const std::string original = ModelToMutate().Build();
  const size_t header_bytes = original.find("output_norm.weight") + 64;
  Engine::Options options = testing::ExactOptions();
  options.threads = 1;
  options.kv_cache_bytes = 1 << 20;
  ASSERT_TRUE(testing::CreateEngine(original, options).ok());

  std::mt19937 random(20251125);
  const int count = Count();
  int loaded = 0;
  int refused = 0;
  for (int i = 0; i < count; ++i) {
    const std::string bytes = testing::Mutate(original, header_bytes, random);
    testing::ForgetRequests();
    const auto engine = testing::CreateEngine(bytes, options);
    EXPECT_LE(testing::LargestRequest(), bytes.size() + kMostExtraBytes)
        << "bytes in one allocation, file " << i;
    if (!engine.ok()) {
      ++refused;
      EXPECT_FALSE(engine.status().message().empty());
      continue;
    }
    ++loaded;
    testing::Stream stream(testing::RandomTokens(3, i), 0);
    std::vector<float> logits;
    // The slice fails or not; the step does not.
    testing::SliceStatus(**engine, testing::NextSlice(stream, 3, logits))
        .IgnoreError();
  }
  std::printf("%d mutated files: %d loaded, %d refused, 0 crashed\n", count,
              loaded, refused);
  EXPECT_GT(loaded, count / 50);
  EXPECT_GT(refused, count / 4);
}

}  // namespace
}  // namespace sparseserve
