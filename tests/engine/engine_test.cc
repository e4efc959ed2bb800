#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/model/gguf_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/reference_transformer.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::ReferenceTransformer;
using testing::TestFile;
using testing::TinyModel;

constexpr int kVocab = TinyModel::kVocabSize;

std::vector<TokenId> RandomTokens(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = random() % 256;
  return tokens;
}

// A sequence in an engine: its tokens so far, and pages all its own.
struct Stream {
  SequenceId id = 0;
  std::vector<TokenId> tokens;
  std::vector<PageId> pages;
  int done = 0;  // tokens whose keys and values are stored
};

Stream MakeStream(std::vector<TokenId> tokens, PageId first_page) {
  Stream stream;
  stream.id = first_page;
  stream.tokens = std::move(tokens);
  // Descending, so that page ids and positions do not agree by chance.
  for (PageId page = first_page + 7; page >= first_page; --page) {
    stream.pages.push_back(page);
  }
  return stream;
}

// The stream's next `count` tokens, with room for all their logits.
StepSlice NextSlice(const Stream& stream, int count,
                    std::vector<float>& logits) {
  StepSlice slice;
  slice.sequence = stream.id;
  slice.phase =
      count == 1 && stream.done > 0 ? Phase::kDecode : Phase::kPrefill;
  slice.tokens = absl::MakeConstSpan(stream.tokens).subspan(stream.done, count);
  slice.first_position = stream.done;
  slice.pages = stream.pages;
  logits.resize(static_cast<size_t>(count) * kVocab);
  slice.all_logits = absl::MakeSpan(logits);
  return slice;
}

Engine::Options ExactOptions() {
  Engine::Options options;
  options.compute_dtype = "f32";
  options.threads = 2;
  options.kv_cache_bytes = 64 << 20;
  return options;
}

// The file may go once it is mapped.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(
    const std::string& file_bytes, Engine::Options options = ExactOptions()) {
  const TestFile file(file_bytes);
  options.model_path = file.path();
  return Engine::Create(std::move(options));
}

std::unique_ptr<Engine> MakeEngine(const TinyModel& model,
                                   Engine::Options options = ExactOptions()) {
  auto engine = CreateEngine(model.Build(), std::move(options));
  SPARSESERVE_CHECK(engine.ok());
  return std::move(engine).value();
}

// Runs one slice by itself and returns its rows' logits.
std::vector<float> RunAlone(Engine& engine, Stream& stream, int count) {
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, count, logits));
  const auto result = engine.Step(plan);
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->slices[0].status.ok()) << result->slices[0].status;
  stream.done += count;
  return logits;
}

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
    // Written so that a NaN counts.
    if (!(difference <= largest)) largest = difference;
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
  for (const DType dtype :
       {DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    TinyModel model;
    model.dtype = dtype;
    model.tied = dtype != DType::kQ4_0;
    cases.push_back({std::string(DTypeName(dtype)), model});
  }
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
    Stream stream = MakeStream(RandomTokens(prompt + kDecodeSteps, prompt), 0);
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

TEST(EngineTest, PrefillInChunksGivesTheSameAsInOne) {
  const auto engine = MakeEngine({});
  const std::vector<TokenId> tokens = RandomTokens(150, 1);
  Stream whole = MakeStream(tokens, 0);
  const std::vector<float> wanted = RunAlone(*engine, whole, 150);
  const double range = *std::max_element(wanted.begin(), wanted.end()) -
                       *std::min_element(wanted.begin(), wanted.end());
  for (const int split : {1, 2, 63, 64, 65, 100, 128, 149}) {
    SCOPED_TRACE(split);
    Stream parts = MakeStream(tokens, 8);
    std::vector<float> found = RunAlone(*engine, parts, split);
    const std::vector<float> rest = RunAlone(*engine, parts, 150 - split);
    found.insert(found.end(), rest.begin(), rest.end());
    double largest = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      largest = std::max<double>(largest, std::abs(found[i] - wanted[i]));
    }
    EXPECT_LE(largest / range, 1e-5);
  }
}

TEST(EngineTest, DecodeInABatchEqualsDecodeAloneToTheBit) {
  const auto engine = MakeEngine({.layers = 3, .seed = 7});
  const std::vector<int> lengths = {1, 64, 5, 130, 63};
  std::vector<std::vector<float>> alone;
  std::vector<Stream> streams;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Stream stream = MakeStream(RandomTokens(lengths[i] + 1, 10 + i),
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
  Stream prompt = MakeStream(RandomTokens(70, 99), 100);
  std::vector<float> prompt_logits;
  plan.slices.push_back(NextSlice(prompt, 70, prompt_logits));
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(logits[i], alone[i]) << "sequence of " << lengths[i];
  }
}

TEST(EngineTest, RedoingASliceGivesTheSame) {
  const auto engine = MakeEngine({});
  Stream stream = MakeStream(RandomTokens(100, 1), 0);
  const std::vector<float> first = RunAlone(*engine, stream, 100);
  stream.done = 0;
  EXPECT_EQ(RunAlone(*engine, stream, 100), first);
}

TEST(EngineTest, DecodeSlicesMayStandAnywhereInThePlan) {
  const auto engine = MakeEngine({});
  Stream decoding = MakeStream(RandomTokens(10, 1), 0);
  RunAlone(*engine, decoding, 9);
  Stream same = decoding;
  const std::vector<float> wanted = RunAlone(*engine, same, 1);

  Stream prompt = MakeStream(RandomTokens(5, 2), 8);
  std::vector<float> prompt_logits, found;
  StepPlan plan;
  plan.slices.push_back(NextSlice(prompt, 5, prompt_logits));
  plan.slices.push_back(NextSlice(decoding, 1, found));
  ASSERT_TRUE(engine->Step(plan).ok());
  EXPECT_EQ(found, wanted);
}

TEST(EngineTest, SamplesFromTheLastRowOnly) {
  const auto engine = MakeEngine({});
  Stream stream = MakeStream(RandomTokens(20, 1), 0);
  SamplingParams greedy;
  greedy.temperature = 0;
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 20, logits));
  plan.slices[0].wants_token = true;
  plan.slices[0].sampling = &greedy;
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto last = logits.end() - kVocab;
  EXPECT_EQ(result->slices[0].token,
            std::max_element(last, logits.end()) - last);
}

TEST(EngineTest, AllLogitsOfMoreRowsThanSlicesComeInChunks) {
  Engine::Options options = ExactOptions();
  options.max_step_slices = 3;
  const auto few = MakeEngine({}, options);
  const auto many = MakeEngine({});
  Stream a = MakeStream(RandomTokens(20, 1), 0);
  Stream b = a;
  EXPECT_EQ(RunAlone(*few, a, 20), RunAlone(*many, b, 20));
}

TEST(EngineTest, CountsBlocksOverLayersHeadsAndQueryBlocks) {
  const auto engine = MakeEngine({.layers = 3});
  Stream stream = MakeStream(RandomTokens(131, 1), 0);
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 130, logits));
  auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok());
  // Query blocks 0, 1 and 2 see 1, 2 and 3 blocks; 3 layers, 2 KV heads.
  EXPECT_EQ(result->slices[0].blocks.allowed, (1 + 2 + 3) * 3 * 2);
  EXPECT_EQ(result->slices[0].blocks.computed, (1 + 2 + 3) * 3 * 2);

  stream.done = 130;
  plan.slices[0] = NextSlice(stream, 1, logits);
  result = engine->Step(plan);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->slices[0].blocks.allowed, 3 * 3 * 2);
}

TEST(EngineTest, StageTimesComeFromTheStopwatchAndAddUp) {
  Engine::Options options = ExactOptions();
  double ticks = 0;
  options.stopwatch = [&ticks] { return ticks += 1; };
  const auto engine = MakeEngine({}, options);
  Stream stream = MakeStream(RandomTokens(5, 1), 0);
  std::vector<float> logits;
  StepPlan plan;
  plan.slices.push_back(NextSlice(stream, 5, logits));
  const auto result = engine->Step(plan);
  ASSERT_TRUE(result.ok());
  const StepTimes& times = result->times;
  EXPECT_EQ(times.attention, 2);  // one tick a layer
  EXPECT_GT(times.embed, 0);
  EXPECT_GT(times.mlp, 0);
  EXPECT_GT(times.sampling, 0);
  // `total` ends at a reading of its own.
  EXPECT_EQ(times.total,
            times.embed + times.attention + times.mlp + times.sampling + 1);
}

}  // namespace
}  // namespace sparseserve
