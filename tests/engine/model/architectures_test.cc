// Every model family, in both forms of model file, against what transformers
// computes from the same weights; see tests/golden/README.md.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/test_folder.h"
#include "tests/testing/tiny_directory.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using testing::ExactOptions;
using testing::RunAlone;
using testing::Stream;
using testing::TestFolder;

constexpr char kFolder[] = "tests/golden/architectures/";

struct Golden {
  std::vector<std::vector<TokenId>> prompts;
  std::vector<TokenId> greedy;           // after the last prompt
  std::vector<std::vector<float>> rows;  // [prompts + greedy]
};

Golden ReadGolden(const std::string& name) {
  const std::string folder = kFolder + name;
  const auto json =
      nlohmann::json::parse(std::ifstream(folder + "/golden.json"));
  Golden golden;
  golden.prompts = json.at("prompts").get<std::vector<std::vector<TokenId>>>();
  golden.greedy = json.at("greedy").get<std::vector<TokenId>>();
  std::ifstream file(folder + "/golden.bin", std::ios::binary);
  const size_t rows = golden.prompts.size() + golden.greedy.size();
  for (size_t row = 0; row < rows; ++row) {
    std::vector<float> values(json.at("vocab_size").get<size_t>());
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
    golden.rows.push_back(std::move(values));
  }
  EXPECT_TRUE(file.good()) << folder;
  return golden;
}

enum class Form { kGgufFile, kDirectory };

// The directory with a tokenizer, which the golden ones do not have.
void CopyDirectory(const std::string& name, const TestFolder& to) {
  for (const char* file : {"config.json", "model.safetensors"}) {
    std::filesystem::copy(kFolder + name + "/" + file, to.path() + "/" + file);
  }
  to.Write("tokenizer.json", testing::ByteTokenizerJson());
}

class ArchitecturesTest
    : public ::testing::TestWithParam<std::tuple<std::string, Form>> {
 protected:
  void SetUp() override {
    const auto& [name, form] = GetParam();
    golden_ = ReadGolden(name);
    Engine::Options options = ExactOptions();
    options.model_path = kFolder + name + "/model.gguf";
    if (form == Form::kDirectory) {
      CopyDirectory(name, folder_);
      options.model_path = folder_.path();
    }
    auto engine = Engine::Create(options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(engine).value();
  }

  // Runs all of the stream's tokens, at most `chunk` in a step; returns the
  // last row.
  std::vector<float> Run(Stream& stream, int chunk) {
    std::vector<float> logits;
    const int count = static_cast<int>(stream.tokens.size());
    while (stream.done < count) {
      logits = RunAlone(*engine_, stream, std::min(chunk, count - stream.done));
    }
    logits.erase(logits.begin(), logits.end() - golden_.rows[0].size());
    return logits;
  }

  void ExpectRow(const std::vector<float>& found, size_t row) {
    const std::vector<float>& wanted = golden_.rows[row];
    const auto [low, high] = std::minmax_element(wanted.begin(), wanted.end());
    ASSERT_EQ(found.size(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double error = std::abs(found[i] - wanted[i]) / (*high - *low);
      if (!(error <= worst_)) worst_ = std::isnan(error) ? HUGE_VAL : error;
    }
    EXPECT_LT(worst_, 1e-3) << "row " << row;
  }

  void TearDown() override {
    std::cout << std::get<std::string>(GetParam()) << ": worst logit off by "
              << worst_ << " of its row's range" << std::endl;
  }

  const TestFolder folder_;
  Golden golden_;
  std::unique_ptr<Engine> engine_;
  double worst_ = 0;
};

TEST_P(ArchitecturesTest, PromptsInOneChunkEqualTransformers) {
  for (size_t p = 0; p < golden_.prompts.size(); ++p) {
    Stream stream(golden_.prompts[p], 0);
    ExpectRow(Run(stream, 512), p);
  }
}

TEST_P(ArchitecturesTest, PromptsCutIntoChunksEqualTransformers) {
  for (const int chunk : {37, 64, 101}) {
    for (size_t p = 0; p < golden_.prompts.size(); ++p) {
      Stream stream(golden_.prompts[p], 0);
      ExpectRow(Run(stream, chunk), p);
    }
  }
}

TEST_P(ArchitecturesTest, GreedyDecodingEqualsTransformers) {
  size_t row = golden_.prompts.size() - 1;
  Stream stream(golden_.prompts[row], 0);
  std::vector<float> logits = Run(stream, 512);
  for (const TokenId wanted : golden_.greedy) {
    const TokenId token = static_cast<TokenId>(
        std::max_element(logits.begin(), logits.end()) - logits.begin());
    ASSERT_EQ(token, wanted) << "row " << row;
    stream.tokens.push_back(token);
    logits = Run(stream, 1);
    ExpectRow(logits, ++row);
  }
}

std::string NameOf(
    const ::testing::TestParamInfo<ArchitecturesTest::ParamType>& info) {
  const auto& [family, form] = info.param;
  std::string name = family;
  std::replace(name.begin(), name.end(), '-', '_');
  return name + (form == Form::kGgufFile ? "_gguf" : "_directory");
}

INSTANTIATE_TEST_SUITE_P(
    Families, ArchitecturesTest,
    ::testing::Combine(::testing::Values("llama", "llama3", "llama-linear",
                                         "mistral", "smollm3", "qwen2", "qwen3",
                                         "gemma2", "gemma3"),
                       ::testing::Values(Form::kGgufFile, Form::kDirectory)),
    NameOf);

}  // namespace
}  // namespace sparseserve
