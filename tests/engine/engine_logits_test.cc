#include <algorithm>
#include <cmath>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "engine/engine.h"
#include "engine/model/gguf_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/reference_transformer.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using testing::ExactOptions;
using testing::MakeEngine;
using testing::NextSlice;
using testing::RandomTokens;
using testing::ReferenceTransformer;
using testing::RunAlone;
using testing::SliceStatus;
using testing::Stream;
using testing::TinyModel;

constexpr int kVocab = TinyModel::kVocabSize;

// Largest difference over the range of the reference's logits.
double RelativeError(const std::vector<float>& found,
                     const std::vector<std::vector<double>>& wanted,
                     int first_row) {
  double largest = 0, low = wanted[0][0], high = low;
  for (size_t i = 0; i < found.size(); ++i) {
    const double want = wanted[first_row + i / kVocab][i % kVocab];
    low = std::min(low, want);
    high = std::max(high, want);
    const double difference = std::abs(found[i] - want);
    // A NaN counts as infinite.
    if (!(difference <= largest))
      largest = std::isnan(difference) ? HUGE_VAL : difference;
  }
  return largest / (high - low);
}

struct ModelCase {
  std::string name;
  TinyModel model;

  friend void PrintTo(const ModelCase& c, std::ostream* out) { *out << c.name; }
};

std::vector<ModelCase> ModelCases() {
  std::vector<ModelCase> cases;
  cases.push_back({"f32", {}});
  cases.push_back({"untied", {.tied = false, .seed = 2}});
  cases.push_back(
      {"three_groups",
       {.layers = 3, .heads = 9, .kv_heads = 3, .head_dim = 32, .seed = 3}});
  cases.push_back(
      {"one_kv_head", {.heads = 3, .kv_heads = 1, .head_dim = 32, .seed = 4}});
  cases.push_back({"no_groups",
                   {.layers = 1,
                    .hidden = 32,
                    .heads = 4,
                    .kv_heads = 4,
                    .head_dim = 8,
                    .mlp_hidden = 160,
                    .seed = 5}});
  cases.push_back(
      {"wide_heads", {.heads = 2, .kv_heads = 1, .head_dim = 64, .seed = 6}});
  cases.push_back(
      {"heads_of_24",
       {.hidden = 96, .heads = 4, .kv_heads = 2, .head_dim = 24, .seed = 7}});
  cases.push_back({"widest_heads",
                   {.heads = 1, .kv_heads = 1, .head_dim = 256, .seed = 8}});
  for (const DType dtype : kAllDTypes) {
    if (dtype == DType::kF32) continue;
    TinyModel model;
    model.dtype = dtype;
    model.tied = dtype != DType::kQ4_0 && dtype != DType::kQ6_K;
    if (BlockElements(dtype) > 32) {  // rows of whole blocks
      model.layers = 1;
      model.hidden = 256;
      model.head_dim = 64;
      model.mlp_hidden = 256;
    }
    cases.push_back({std::string(DTypeName(dtype)), model});
  }
  // What llama.cpp calls Q4_K_M; attn_output's rows are no whole super-blocks.
  cases.push_back({"mixed",
                   {.hidden = 256,
                    .mlp_hidden = 256,
                    .tied = false,
                    .dtype = DType::kQ4_K,
                    .part_dtypes = {{"attn_v", DType::kQ6_K},
                                    {"attn_output", DType::kQ5_0},
                                    {"ffn_down", DType::kQ6_K},
                                    {"token_embd", DType::kQ5_K},
                                    {"output", DType::kQ6_K}}}});
  return cases;
}

class EngineModelTest : public ::testing::TestWithParam<ModelCase> {};

TEST_P(EngineModelTest, LogitsMatchTheReference) {
  const std::string bytes = GetParam().model.Build();
  const auto file =
      GgufFile::Parse(
          absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()),
                              bytes.size()))
          .value();
  const ReferenceTransformer reference(*file);
  const auto engine = MakeEngine(GetParam().model);

  for (const int prompt : {1, 63, 64, 65, 300}) {
    SCOPED_TRACE(prompt);
    constexpr int kDecodeSteps = 3;
    Stream stream(RandomTokens(prompt + kDecodeSteps, prompt), 0);
    const auto wanted = reference.Logits(stream.tokens);
    EXPECT_LE(RelativeError(RunAlone(*engine, stream, prompt), wanted, 0),
              1e-4);
    for (int i = 0; i < kDecodeSteps; ++i) {
      EXPECT_LE(RelativeError(RunAlone(*engine, stream, 1), wanted, prompt + i),
                1e-4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineModelTest,
                         ::testing::ValuesIn(ModelCases()),
                         [](const auto& instance) {
                           return instance.param.name;
                         });

// Each factor of a prompt's products has 8 bits, and keys and values too.
TEST(EngineLogitsTest, RoundedPromptsStayNearTheReference) {
  Engine::Options options = ExactOptions();
  options.compute_dtype = "bf16";
  for (const ModelCase& model_case : ModelCases()) {
    SCOPED_TRACE(model_case.name);
    const auto engine = MakeEngine(model_case.model, options);
    if (!absl::StrContains(engine->DeviceSummary(), "BF16 prompt products")) {
      GTEST_SKIP() << "this CPU multiplies no bf16";
    }
    const std::string bytes = model_case.model.Build();
    const auto file =
        GgufFile::Parse(
            absl::MakeConstSpan(
                reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()))
            .value();
    Stream stream(RandomTokens(71, 3), 0);
    const auto wanted = ReferenceTransformer(*file).Logits(stream.tokens);
    const double prompt =
        RelativeError(RunAlone(*engine, stream, 70), wanted, 0);
    EXPECT_LE(prompt, 0.03);
    EXPECT_GE(prompt, 1e-5);  // it is rounded
    EXPECT_LE(RelativeError(RunAlone(*engine, stream, 1), wanted, 70), 0.03);
  }
}

class EngineBatchTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Engine> Make(const TinyModel& model) {
    Engine::Options options = ExactOptions();
    options.compute_dtype = GetParam();
    return MakeEngine(model, options);
  }
};

TEST_P(EngineBatchTest, PrefillInChunksEqualsPrefillInOneToTheBit) {
  const auto engine = Make({});
  const std::vector<TokenId> tokens = RandomTokens(150, 1);
  Stream whole(tokens, 0);
  const std::vector<float> wanted = RunAlone(*engine, whole, 150);
  for (const int split : {1, 2, 63, 64, 65, 100, 128, 149}) {
    Stream parts(tokens, 8);
    std::vector<float> found = RunAlone(*engine, parts, split);
    std::vector<float> rest;
    // Not as a decode step, if it is a single token.
    StepSlice slice = NextSlice(parts, 150 - split, rest);
    slice.phase = Phase::kPrefill;
    ASSERT_TRUE(SliceStatus(*engine, slice).ok());
    found.insert(found.end(), rest.begin(), rest.end());
    EXPECT_EQ(found, wanted) << "split at " << split;
  }
}

TEST_P(EngineBatchTest, PromptBesideOthersEqualsPromptAloneToTheBit) {
  const auto engine = Make({.layers = 3, .seed = 9});
  const std::vector<int> lengths = {1, 5, 17, 64, 130};
  std::vector<Stream> streams;
  std::vector<std::vector<float>> alone;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Stream stream(RandomTokens(lengths[i], 20 + i), static_cast<PageId>(8 * i));
    streams.push_back(stream);
    alone.push_back(RunAlone(*engine, stream, lengths[i]));
  }
  StepPlan plan;
  std::vector<std::vector<float>> logits(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    plan.slices.push_back(NextSlice(streams[i], lengths[i], logits[i]));
  }
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  for (size_t i = 0; i < lengths.size(); ++i) {
    EXPECT_EQ(logits[i], alone[i]) << "prompt of " << lengths[i];
  }
}

TEST_P(EngineBatchTest, DecodeInABatchEqualsDecodeAloneToTheBit) {
  const auto engine = Make({.layers = 3, .seed = 7});
  const std::vector<int> lengths = {1, 64, 5, 130, 63};
  std::vector<std::vector<float>> alone;
  std::vector<Stream> streams;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Stream stream(RandomTokens(lengths[i] + 1, 10 + i),
                  static_cast<PageId>(8 * i));
    RunAlone(*engine, stream, lengths[i]);
    streams.push_back(stream);
    alone.push_back(RunAlone(*engine, stream, 1));
  }

  // The same decode steps again, together, beside a prompt.
  StepPlan plan;
  std::vector<std::vector<float>> logits(lengths.size());
  for (size_t i = 0; i < streams.size(); ++i) {
    plan.slices.push_back(NextSlice(streams[i], 1, logits[i]));
  }
  Stream prompt(RandomTokens(70, 99), 100);
  std::vector<float> prompt_logits;
  plan.slices.push_back(NextSlice(prompt, 70, prompt_logits));
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(logits[i], alone[i]) << "sequence of " << lengths[i];
  }
}

INSTANTIATE_TEST_SUITE_P(ComputeDtypes, EngineBatchTest,
                         ::testing::Values("f32", "bf16"),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace sparseserve
