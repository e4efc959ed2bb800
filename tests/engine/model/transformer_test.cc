#include "engine/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/create_backend.h"
#include "engine/layout/layout_builder.h"
#include "engine/model/gguf_checkpoint.h"
#include "gtest/gtest.h"
#include "tests/testing/reference_transformer.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using testing::RandomTokens;
using testing::ReferenceTransformer;
using testing::Stream;
using testing::TinyModel;

// A rule that no PatternSpec has: even KV heads see the first block and the
// last two, odd ones every second block and their own.
bool Sees(int32_t kv_head, int32_t query_block, int32_t block) {
  if (kv_head % 2 == 0) return block == 0 || block >= query_block - 1;
  return block % 2 == 1 || block == query_block;
}

std::vector<BlockRange> RangesOf(int32_t kv_head, int32_t query_block) {
  std::vector<BlockRange> ranges;
  for (int32_t block = 0; block <= query_block; ++block) {
    if (Sees(kv_head, query_block, block)) ranges.push_back({block, block + 1});
  }
  return ranges;
}

// Another backend, with other lists under the tiles that attention is given.
class SparseListsBackend : public Backend {
 public:
  explicit SparseListsBackend(std::unique_ptr<Backend> real)
      : real_(std::move(real)) {}

  const DeviceInfo& device() const override { return real_->device(); }
  absl::StatusOr<std::unique_ptr<Weight>> LoadWeight(
      absl::Span<const StoredMatrix> stacked, WeightUse use) override {
    return real_->LoadWeight(stacked, use);
  }
  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    return real_->Allocate(bytes);
  }
  absl::Status Prepare(int64_t max_rows,
                       const std::function<void(double)>& progress) override {
    return real_->Prepare(max_rows, progress);
  }
  int64_t AvailableBytes() const override { return real_->AvailableBytes(); }
  void Upload(const void* from, int64_t bytes, std::byte* to) override {
    real_->Upload(from, bytes, to);
  }
  void Download(const std::byte* from, int64_t bytes, void* to) override {
    real_->Download(from, bytes, to);
  }
  void Copy(const std::byte* from, int64_t bytes, std::byte* to) override {
    real_->Copy(from, bytes, to);
  }
  void BeginStep(RowGroups groups) override { real_->BeginStep(groups); }
  absl::Status EndStep() override { return real_->EndStep(); }
  void Embed(const Weight& table, absl::Span<const TokenId> tokens, float scale,
             MatrixView output) override {
    real_->Embed(table, tokens, scale, output);
  }
  void RmsNorm(ConstMatrixView input, const float* gain, float epsilon,
               MatrixView output) override {
    real_->RmsNorm(input, gain, epsilon, output);
  }
  void RmsNormOf(absl::Span<const int32_t> rows, ConstMatrixView input,
                 const float* gain, float epsilon, MatrixView output) override {
    real_->RmsNormOf(rows, input, gain, epsilon, output);
  }
  void AddRmsNorm(ConstMatrixView input, const float* gain, float epsilon,
                  MatrixView output) override {
    real_->AddRmsNorm(input, gain, epsilon, output);
  }
  void Linear(const Weight& weight, ConstMatrixView input, RowGroups groups,
              bool accumulate, MatrixView output) override {
    real_->Linear(weight, input, groups, accumulate, output);
  }
  void RopeAndStore(const RopeAndStoreArgs& args) override {
    real_->RopeAndStore(args);
  }
  void Select(const SelectArgs& args) override { real_->Select(args); }
  void Sample(const SampleArgs& args) override { real_->Sample(args); }
  void Profile(const ProfileArgs& args) override { real_->Profile(args); }
  void Correct(const CorrectArgs& args) override { real_->Correct(args); }
  void Attention(const AttentionArgs& args) override {
    LayoutBuilder builder(args.kv.kv_heads);
    for (const QueryTile& tile : args.layout->tiles) {
      builder.AddTile(tile);
      for (int32_t head = 0; head < args.kv.kv_heads; ++head) {
        const int32_t query_block = QueryBlock(tile, kPageTokens);
        builder.Assign(head, builder.AddList(RangesOf(head, query_block)));
      }
    }
    EXPECT_TRUE(builder.layout().Validate().ok());
    AttentionArgs sparse = args;
    sparse.layout = &builder.layout();
    real_->Attention(sparse);
  }
  void SwiGlu(ConstMatrixView gate_up, MatrixView output) override {
    real_->SwiGlu(gate_up, output);
  }
  void GeGlu(ConstMatrixView gate_up, MatrixView output) override {
    real_->GeGlu(gate_up, output);
  }
  void SoftCap(float cap, MatrixView values) override {
    real_->SoftCap(cap, values);
  }

 private:
  std::unique_ptr<Backend> real_;
};

std::unique_ptr<Backend> ExactBackend() {
  return CreateBackend({.threads = 2, .compute_dtype = "f32"}).value();
}

// A transformer over a tiny model, run by hand.
class Runner {
 public:
  Runner(const TinyModel& model, std::unique_ptr<Backend> backend)
      : bytes_(model.Build()),
        checkpoint_(GgufCheckpoint::FromFile(
                        GgufFile::Parse(absl::MakeConstSpan(
                                            reinterpret_cast<const std::byte*>(
                                                bytes_.data()),
                                            bytes_.size()))
                            .value())
                        .value()),
        config_(checkpoint_->config()),
        backend_(std::move(backend)),
        transformer_(
            Transformer::Create(
                *backend_, config_,
                LoadModelWeights(*backend_, *checkpoint_, config_, {}).value(),
                {.max_rows = 512, .max_logit_rows = 4})
                .value()),
        cache_(KvCache::Create(*backend_,
                               {.layers = config_.layers,
                                .kv_heads = config_.kv_heads,
                                .head_dim = config_.head_dim,
                                .dtype = backend_->device().kv_dtype},
                               /*pages=*/16)
                   .value()),
        plan_(Transformer::PlanShape(config_)) {}

  // Runs the stream's next `count` tokens.
  void Forward(Stream& stream, int count) {
    std::vector<float> unused;
    StepSlice slice = NextSlice(stream, count, unused);
    const PlannedSlice planned = {&slice, DensePattern()};
    plan_.Build({&planned, 1});
    StageClock clock(no_stopwatch_);
    StepTimes times;
    transformer_->Forward(plan_, cache_, clock, times);
    stream.done += count;
  }

  const GgufFile& file() const { return checkpoint_->file(); }
  Transformer& transformer() { return *transformer_; }

 private:
  const std::function<double()> no_stopwatch_;
  const std::string bytes_;
  std::unique_ptr<GgufCheckpoint> checkpoint_;
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> transformer_;
  KvCache cache_;
  AttentionPlan plan_;
};

void ExpectRow(const float* found, const std::vector<double>& wanted) {
  const auto [low, high] = std::minmax_element(wanted.begin(), wanted.end());
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_NEAR(found[i], wanted[i], 1e-4 * (*high - *low)) << "logit " << i;
  }
}

TEST(TransformerTest, LogitsComeInTheOrderOfTheRowsAskedFor) {
  Runner runner({}, ExactBackend());
  Stream stream(RandomTokens(100, 1), 0);
  runner.Forward(stream, 100);
  const auto wanted = ReferenceTransformer(runner.file()).Logits(stream.tokens);
  const std::vector<int32_t> rows = {99, 0, 64, 0};
  const ConstMatrixView logits = runner.transformer().Logits(rows);
  ASSERT_EQ(logits.rows, 4);
  for (int i = 0; i < 4; ++i) ExpectRow(logits.row(i), wanted[rows[i]]);
}

TEST(TransformerTest, ListsOfAnyShapeGoThroughTheSameForwardPass) {
  const TinyModel model;
  Runner runner(model, std::make_unique<SparseListsBackend>(ExactBackend()));
  constexpr int kPrompt = 300;
  Stream stream(RandomTokens(kPrompt + 2, 1), 0);
  const auto wanted =
      ReferenceTransformer(runner.file())
          .Logits(stream.tokens, [](int, int kv_head, int row, int column) {
            return Sees(kv_head, row / kPageTokens, column / kPageTokens);
          });
  runner.Forward(stream, kPrompt);
  for (const int32_t row : {0, 63, 64, 130, 255, 256, kPrompt - 1}) {
    SCOPED_TRACE(row);
    ExpectRow(runner.transformer().Logits({row}).row(0), wanted[row]);
  }
  for (int position = kPrompt; position < kPrompt + 2; ++position) {
    SCOPED_TRACE(position);
    runner.Forward(stream, 1);
    ExpectRow(runner.transformer().Logits({0}).row(0), wanted[position]);
  }
}

}  // namespace
}  // namespace sparseserve
