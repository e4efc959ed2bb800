// Recall of sampled requests, through the whole server, on a small model with
// random weights, against the same in double precision.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/recall_sampler.h"
#include "server/server.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/testing/reference_transformer.h"
#include "tests/testing/scrape.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::kGeneratePath;
using ::testing::Not;
using testing::ReferenceTransformer;
using testing::TestCall;
using testing::TestChannel;
using testing::TinyModel;
using testing::WholeRequest;

constexpr int kPromptTokens = 300;
constexpr int64_t kSeed = 11;

TinyModel Model() { return {.seed = 5}; }

class MeasuredRecallTest : public ::testing::Test {
 protected:
  MeasuredRecallTest() {
    // Chunks of the prompt.
    options_.settings.max_step_tokens = 128;
    options_.settings.max_running_sequences = 4;
    options_.settings.recall_sample_share = 1;
    options_.model_name = "models/tiny";
    options_.listen = "127.0.0.1:0";
    for (const TokenId token : testing::RandomTokens(kPromptTokens, 9)) {
      request_.mutable_token_ids()->add_ids(token);
    }
    request_.mutable_sampling()->set_seed(kSeed);
    request_.mutable_stop()->set_max_output_tokens(40);
    request_.mutable_stop()->set_ignore_eos(true);
  }

  void Start() {
    Engine::Options options = testing::ExactOptions();
    options.measure_recall = true;
    auto server =
        Server::Start(options_, testing::MakeEngine(Model(), options));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  v1::GenerateResponse Generate() {
    TestChannel channel(server_->port());
    TestCall call(channel, kGeneratePath,
                  WholeRequest(request_).SerializeAsString());
    v1::GenerateResponse response;
    EXPECT_TRUE(call.Read(response));
    EXPECT_TRUE(call.Finish().ok());
    return response;
  }

  // Of every head in the rows that a request of this seed samples, in double
  // precision.
  std::vector<double> Reference(const v1::GenerateResponse& response,
                                const ReferenceTransformer::Visible& visible) {
    std::vector<TokenId> tokens(request_.token_ids().ids().begin(),
                                request_.token_ids().ids().end());
    tokens.insert(tokens.end(), response.token_ids().begin(),
                  response.token_ids().end());
    tokens.pop_back();  // drawn, never run
    std::vector<int> rows = RecallRows(kPromptTokens, kSeed);
    for (int row = kPromptTokens; row < static_cast<int>(tokens.size());
         row += RecallSampler::kOutputStride) {
      rows.push_back(row);
    }
    const testing::TestFile file(Model().Build());
    const auto opened = GgufFile::Open(file.path());
    EXPECT_TRUE(opened.ok()) << opened.status();
    const std::vector<std::vector<double>> shares =
        ReferenceTransformer(**opened).Recall(tokens, visible);
    std::vector<double> sampled;
    for (const int row : rows) {
      sampled.insert(sampled.end(), shares[row].begin(), shares[row].end());
    }
    return sampled;
  }

  double Series(const std::string& name, const std::string& labels) const {
    return testing::SumOfSeries(server_->metrics().Serialize(), name, {labels})
        .value_or(-1);
  }

  Server::Options options_;
  v1::GenerateOptions request_;
  std::unique_ptr<Server> server_;
};

TEST_F(MeasuredRecallTest, IsThatOfDoublePrecision) {
  Start();
  v1::SinkWindowPattern& pattern =
      *request_.mutable_attention()->mutable_pattern()->mutable_sink_window();
  pattern.set_sink_tokens(4);
  pattern.set_window_tokens(90);
  const v1::GenerateResponse response = Generate();
  std::vector<double> shares =
      Reference(response, [](int, int, int row, int column) {
        return column < 4 || row - column < 90;
      });
  const v1::AttentionReport& report = response.report().attention();
  // 39 tokens of the output were run.
  EXPECT_EQ(report.recall_rows(), 16 + 3);
  ASSERT_EQ(shares.size(), 19 * 2 * 4);
  double sum = 0;
  for (const double share : shares) sum += share;
  std::sort(shares.begin(), shares.end());
  const double p5 = shares[7];  // the 8th of 152: 152 / 20 rounded up
  EXPECT_NEAR(report.recall_estimate(), sum / 152, 1e-5);
  EXPECT_NEAR(report.recall_p5(), p5, 1e-5);
  // Something to be measured.
  EXPECT_LT(p5, 0.5);
  EXPECT_GT(sum / 152, p5 + 0.1);
  const std::string name = "sparseserve_attention_recall_estimate_ratio_";
  EXPECT_EQ(Series(name + "count", "pattern=\"sink_window\""), 152);
  EXPECT_NEAR(Series(name + "sum", "pattern=\"sink_window\""), sum, 152e-5);
}

TEST_F(MeasuredRecallTest, HeadsOfAMapCountByTheirPatterns) {
  options_.settings.attention_plans = {
      {.name = "streaming", .map = {{SinkWindowPattern{4, 90}, {1}, {0}}}}};
  Start();
  request_.mutable_attention()->set_plan("streaming");
  const v1::GenerateResponse response = Generate();
  const std::vector<double> shares =
      Reference(response, [](int layer, int kv_head, int row, int column) {
        return layer == 0 || kv_head == 1 || column < 4 || row - column < 90;
      });
  double sum = 0;
  for (const double share : shares) sum += share;
  EXPECT_NEAR(response.report().attention().recall_estimate(),
              sum / static_cast<double>(shares.size()), 1e-5);
  // Two of the eight query heads belong to the one that has a window.
  const std::string name = "sparseserve_attention_recall_estimate_ratio_";
  EXPECT_EQ(Series(name + "count", "pattern=\"sink_window\""), 19 * 2);
  EXPECT_EQ(Series(name + "count", "pattern=\"dense\""), 19 * 6);
  EXPECT_NEAR(Series(name + "sum", "pattern=\"dense\""), 19 * 6, 1e-3);
}

TEST_F(MeasuredRecallTest, DenseIsOneWithoutBeingMeasured) {
  Start();
  const v1::AttentionReport report = Generate().report().attention();
  EXPECT_EQ(report.recall_estimate(), 1);
  EXPECT_EQ(report.recall_p5(), 1);
  EXPECT_EQ(report.recall_rows(), 0);
  EXPECT_THAT(server_->metrics().Serialize(),
              Not(HasSubstr("sparseserve_attention_recall_estimate_ratio_")));
}

TEST_F(MeasuredRecallTest, MeasuringChangesNoToken) {
  v1::XAttentionPattern& pattern =
      *request_.mutable_attention()->mutable_pattern()->mutable_xattention();
  pattern.set_dense_layers(0);
  pattern.set_threshold(0.5f);
  Start();
  const v1::GenerateResponse measured = Generate();
  EXPECT_EQ(measured.report().attention().recall_rows(), 16);
  EXPECT_LT(measured.report().attention().recall_estimate(), 0.99);
  server_.reset();
  options_.settings.recall_sample_share = 0;
  Start();
  const v1::GenerateResponse plain = Generate();
  EXPECT_FALSE(plain.report().attention().has_recall_estimate());
  EXPECT_FALSE(plain.report().attention().has_recall_p5());
  EXPECT_EQ(
      std::vector<int>(plain.token_ids().begin(), plain.token_ids().end()),
      std::vector<int>(measured.token_ids().begin(),
                       measured.token_ids().end()));
}

}  // namespace
}  // namespace sparseserve
