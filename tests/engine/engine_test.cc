#include "engine/engine.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "engine/base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using testing::CreateEngine;
using testing::ExactOptions;
using ::testing::HasSubstr;
using testing::MakeEngine;
using testing::TinyModel;

constexpr int kVocab = TinyModel::kVocabSize;

TEST(EngineTest, WeightsAreFingerprintedIfAsked) {
  const std::string bytes = TinyModel().Build();
  EXPECT_EQ((*CreateEngine(bytes))->info().weights_sha256, "");
  Engine::Options options = ExactOptions();
  options.fingerprint_weights = true;
  const auto engine = CreateEngine(bytes, options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  Sha256 digest;
  digest.Add({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
  EXPECT_EQ((*engine)->info().weights_sha256, digest.Finish());
}

TEST(EngineTest, OptionsOutOfRangeAreNamed) {
  const std::string bytes = TinyModel().Build();
  struct Row {
    const char* message;
    std::function<void(Engine::Options&)> spoil;
  };
  const std::vector<Row> table = {
      {"threads", [](Engine::Options& o) { o.threads = -1; }},
      {"threads", [](Engine::Options& o) { o.threads = 1 << 20; }},
      {"compute_dtype", [](Engine::Options& o) { o.compute_dtype = "f64"; }},
      {"simd", [](Engine::Options& o) { o.simd = "mmx"; }},
      {"kv_cache_bytes", [](Engine::Options& o) { o.kv_cache_bytes = -1; }},
      // 512 tokens are 8 pages of 2 layers, 2 sides, 2 heads of 64 x 16 floats,
      // and of 2 bounds for each 64 keys.
      {"266240 bytes", [](Engine::Options& o) { o.kv_cache_bytes = 266239; }},
      {"host_kv_bytes", [](Engine::Options& o) { o.host_kv_bytes = -1; }},
      {"max_step_tokens", [](Engine::Options& o) { o.max_step_tokens = -1; }},
      {"max_step_tokens",
       [](Engine::Options& o) { o.max_step_tokens = 1 << 20; }},
      {"max_step_slices", [](Engine::Options& o) { o.max_step_slices = 0; }},
      {"max_step_slices",
       [](Engine::Options& o) { o.max_step_slices = 1 << 20; }},
  };
  for (const Row& row : table) {
    Engine::Options options = ExactOptions();
    row.spoil(options);
    const auto engine = CreateEngine(bytes, options);
    EXPECT_TRUE(absl::IsInvalidArgument(engine.status())) << row.message;
    EXPECT_THAT(std::string(engine.status().message()), HasSubstr(row.message));
  }
  Engine::Options nameless = ExactOptions();
  EXPECT_THAT(std::string(Engine::Create(nameless).status().message()),
              HasSubstr("model_path"));
  nameless.model_path = "/nonexistent/model.gguf";
  EXPECT_TRUE(absl::IsNotFound(Engine::Create(nameless).status()));
}

TEST(EngineTest, TakesAsManyTokensAStepAsSuitTheDevice) {
  Engine::Options options = ExactOptions();
  options.max_step_tokens = 0;
  auto engine = CreateEngine(TinyModel().Build(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->max_step_tokens(), 512);
  // A step holds a row for each other slice, and a page.
  options.max_step_slices = 1000;
  engine = CreateEngine(TinyModel().Build(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->max_step_tokens(), 1063);
  options.max_step_tokens = 16;
  engine = CreateEngine(TinyModel().Build(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->max_step_tokens(), 16);
}

TEST(EngineTest, MemoryForPagesOfAHostIsSaidApart) {
  Engine::Options options = ExactOptions();
  options.host_kv_bytes = 266240 * 3;
  options.kv_cache_bytes = 0;
  auto engine = CreateEngine(TinyModel().Build(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->kv_pages(), 3 * 8);
  options.kv_cache_bytes = 266240;
  engine = CreateEngine(TinyModel().Build(), options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->kv_pages(), 8);
}

TEST(EngineTest, HoldsAsManyPagesAsItsMemoryAllows) {
  Engine::Options options = ExactOptions();
  // Keys and values, and 1 / 64 of that for bounds of the keys.
  options.kv_cache_bytes = 266240 + 33279;
  const auto engine = MakeEngine({}, options);
  EXPECT_EQ(engine->kv_pages(), 8);
  EXPECT_EQ(engine->memory().kv_bytes, 266240);

  options.kv_cache_bytes = 0;
  EXPECT_EQ(MakeEngine({}, options)->kv_pages(), 16 * 8);
}

TEST(EngineTest, TellsWhatItLoaded) {
  const auto engine =
      MakeEngine({.layers = 3, .tied = false, .dtype = DType::kQ8_0});
  const ModelInfo& info = engine->info();
  EXPECT_EQ(info.name, "tiny");
  EXPECT_EQ(info.architecture, "llama");
  EXPECT_EQ(info.weight_dtype, "Q8_0");
  const int64_t layer = 2 * 64 + 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 96;
  EXPECT_EQ(info.parameters, 2 * kVocab * 64 + 64 + 3 * layer);
  EXPECT_EQ(info.chat_template, "");
  EXPECT_EQ(engine->chat_template(), nullptr);
  EXPECT_EQ(engine->tokenizer().vocab_size(), kVocab);
  EXPECT_EQ(engine->compute_dtype(), "f32");
  EXPECT_THAT(engine->DeviceSummary(), HasSubstr("2 threads"));
}

TEST(EngineTest, SummaryTellsProductsAndKvDtypeApart) {
  Engine::Options options = ExactOptions();
  options.compute_dtype = "bf16";
  options.simd = "scalar";
  EXPECT_THAT(MakeEngine({}, options)->DeviceSummary(),
              HasSubstr("F32 prompt products, BF16 KV cache"));
}

TEST(EngineTest, LoadingReportsProgressFromNoneToAll) {
  std::vector<double> seen;
  Engine::Options options = ExactOptions();
  options.progress = [&](const char*, double done) { seen.push_back(done); };
  MakeEngine({.layers = 4}, options);
  ASSERT_GE(seen.size(), 2);
  EXPECT_EQ(seen.front(), 0);
  EXPECT_EQ(seen.back(), 1);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
}

}  // namespace
}  // namespace sparseserve
