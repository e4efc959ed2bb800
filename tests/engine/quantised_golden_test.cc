// Small models of every quantised dtype against what independent software
// computes from them: see tests/golden/README.md.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

constexpr char kFolder[] = "tests/golden/quantised/";
// Of the range of a row's logits.
constexpr double kTolerance = 1e-3;

nlohmann::json Manifest() {
  std::ifstream file(std::string(kFolder) + "manifest.json");
  return nlohmann::json::parse(file);
}

std::vector<std::string> ModelNames() {
  std::vector<std::string> names;
  const nlohmann::json manifest = Manifest();
  for (const auto& model : manifest["models"]) names.push_back(model["name"]);
  return names;
}

// Logits of the last of `tokens`, the first of which stands at `position`.
std::vector<float> LastRow(Engine& engine, absl::Span<const TokenId> tokens,
                           int position, absl::Span<const PageId> pages,
                           int vocabulary) {
  std::vector<float> logits(tokens.size() * vocabulary);
  StepSlice slice;
  slice.phase = position > 0 ? Phase::kDecode : Phase::kPrefill;
  slice.tokens = tokens;
  slice.first_position = position;
  slice.pages = pages;
  slice.all_logits = absl::MakeSpan(logits);
  const absl::Status status = testing::SliceStatus(engine, slice);
  EXPECT_TRUE(status.ok()) << status;
  return {logits.end() - vocabulary, logits.end()};
}

class QuantisedGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  QuantisedGoldenTest() {
    const nlohmann::json manifest = Manifest();
    vocabulary_ = manifest["vocabulary"];
    prompts_ = manifest["prompts"].get<std::vector<int>>();
    greedy_prompt_ = manifest["greedy_prompt"];
    size_t rows_before = 0;
    for (const auto& model : manifest["models"]) {
      if (model["name"] == GetParam()) {
        tokens_ = model["tokens"].get<std::vector<TokenId>>();
        followers_ = model["greedy_tokens"].get<std::vector<TokenId>>();
        break;
      }
      rows_before += prompts_.size() + model["greedy_tokens"].size();
    }
    ReadRows(rows_before);
    Engine::Options options = testing::ExactOptions();
    options.model_path = kFolder + GetParam() + ".gguf";
    auto engine = Engine::Create(std::move(options));
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(engine).value();
  }

  // The row after `position` tokens that end in `tokens`.
  std::vector<float> Run(absl::Span<const TokenId> tokens, int position) {
    return LastRow(*engine_, tokens, position, pages_, vocabulary_);
  }

  void ExpectNear(const std::vector<float>& found, size_t row) const {
    const std::vector<float>& wanted = rows_[row];
    ASSERT_EQ(found.size(), wanted.size());
    const auto [low, high] = std::minmax_element(wanted.begin(), wanted.end());
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_LE(std::abs(found[i] - wanted[i]), kTolerance * (*high - *low))
          << "row " << row << ", token " << i;
    }
  }

  int vocabulary_ = 0;
  int greedy_prompt_ = 0;
  std::vector<int> prompts_;
  std::vector<TokenId> tokens_;     // prompts are the first of these
  std::vector<TokenId> followers_;  // of the prompt of greedy_prompt_
  // The last row of every prompt, then those of the followers.
  std::vector<std::vector<float>> rows_;
  const std::vector<PageId> pages_ = {5, 2, 7, 0, 3};
  std::unique_ptr<Engine> engine_;

 private:
  void ReadRows(size_t rows_before) {
    rows_.assign(prompts_.size() + followers_.size(),
                 std::vector<float>(vocabulary_));
    const size_t row_bytes = vocabulary_ * sizeof(float);
    std::ifstream file(std::string(kFolder) + "logits.bin", std::ios::binary);
    file.seekg(static_cast<std::streamoff>(rows_before * row_bytes));
    for (std::vector<float>& row : rows_) {
      file.read(reinterpret_cast<char*>(row.data()), row_bytes);
    }
    EXPECT_TRUE(file.good());
  }
};

TEST_P(QuantisedGoldenTest, PromptsEndInTheReferencesLogits) {
  for (size_t i = 0; i < prompts_.size(); ++i) {
    SCOPED_TRACE(prompts_[i]);
    ExpectNear(Run(absl::MakeConstSpan(tokens_).first(prompts_[i]), 0), i);
  }
}

TEST_P(QuantisedGoldenTest, GreedyDecodingGivesTheReferencesTokensAndLogits) {
  std::vector<float> row =
      Run(absl::MakeConstSpan(tokens_).first(greedy_prompt_), 0);
  for (size_t step = 0; step < followers_.size(); ++step) {
    SCOPED_TRACE(step);
    const auto token = static_cast<TokenId>(
        std::max_element(row.begin(), row.end()) - row.begin());
    ASSERT_EQ(token, followers_[step]);
    row = Run({&token, 1}, greedy_prompt_ + static_cast<int>(step));
    ExpectNear(row, prompts_.size() + step);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, QuantisedGoldenTest,
                         ::testing::ValuesIn(ModelNames()),
                         [](const auto& instance) { return instance.param; });

TEST(QuantisedGoldenFilesTest, HoldEveryDtypeThatIsQuantised) {
  std::set<std::string> wanted;
  for (const DType dtype : kAllDTypes) {
    if (BlockElements(dtype) > 1) wanted.emplace(DTypeName(dtype));
  }
  std::set<std::string> found;
  const nlohmann::json manifest = Manifest();
  for (const auto& model : manifest["models"]) {
    for (const std::string type : model["types"]) found.insert(type);
  }
  found.erase("F32");  // the norms
  EXPECT_EQ(found, wanted);
}

}  // namespace
}  // namespace sparseserve
