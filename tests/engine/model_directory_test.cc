// A model directory through the engine's door; see
// tests/engine/model/architectures_test.cc for its logits.

#include <filesystem>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"
#include "tests/testing/tiny_directory.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using testing::TestFolder;
using testing::TinyDirectory;
using ::testing::UnorderedElementsAre;

absl::StatusOr<std::unique_ptr<Engine>> Create(const TestFolder& folder) {
  Engine::Options options = testing::ExactOptions();
  options.model_path = folder.path();
  return Engine::Create(options);
}

TEST(ModelDirectoryTest, EngineDescribesIt) {
  const TestFolder folder;
  TinyDirectory().WriteShards(folder, 4);
  const auto engine = Create(folder);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const ModelInfo& info = (*engine)->info();
  EXPECT_EQ(info.name, std::filesystem::path(folder.path()).filename());
  EXPECT_EQ(info.architecture, "llama");
  EXPECT_EQ(info.weight_dtype, "BF16");
  EXPECT_EQ(info.context_tokens, 128);
  EXPECT_EQ(info.vocab_size, TinyDirectory::kVocabSize);
  EXPECT_EQ(info.chat_template, "");
  EXPECT_EQ((*engine)->tokenizer().vocab_size(), TinyDirectory::kVocabSize);
  // Two shards of BF16 and F32 tensors and their headers.
  EXPECT_GT((*engine)->memory().mapped_file_bytes, 2 * info.parameters);
}

TEST(ModelDirectoryTest, EngineTellsTheWindowOfEachLayer) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.config["model_type"] = "mistral";
  directory.config["sliding_window"] = 32;
  directory.Write(folder);
  const auto engine = Create(folder);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_THAT((*engine)->info().layer_windows,
              AllOf(SizeIs((*engine)->info().layers), Each(32)));
}

TEST(ModelDirectoryTest, EndTokensAreThoseOfAllFiles) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.config["eos_token_id"] = 3;
  directory.Write(folder);
  folder.Write("generation_config.json",
               R"({"eos_token_id": [4, 5], "temperature": 0.6})");
  folder.Write("tokenizer_config.json", R"({"eos_token": "<|endoftext|>"})");
  const auto engine = Create(folder);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_THAT((*engine)->tokenizer().end_tokens(),
              UnorderedElementsAre(3, 4, 5, 256, 257));
}

TEST(ModelDirectoryTest, ProgressGoesFromNoneToAll) {
  const TestFolder folder;
  TinyDirectory().Write(folder);
  std::vector<double> shares;
  Engine::Options options = testing::ExactOptions();
  options.model_path = folder.path();
  options.progress = [&](const char* /*stage*/, double done) {
    shares.push_back(done);
  };
  ASSERT_TRUE(Engine::Create(options).ok());
  EXPECT_THAT(shares, Contains(0.0));
  EXPECT_EQ(shares.back(), 1.0);
}

TEST(ModelDirectoryTest, TokenizerThatIsMissingOrWrongIsNamed) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.Write(folder);
  std::filesystem::remove(folder.path() + "/tokenizer.json");
  absl::Status status = Create(folder).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(folder.path() + " has no tokenizer.json"));

  folder.Write("tokenizer.json", "{");
  status = Create(folder).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(folder.path() + ": tokenizer.json"));

  directory.config["vocab_size"] = 200;
  directory.Find("model.embed_tokens.weight")->shape = {200, 32};
  directory.Write(folder);
  EXPECT_THAT(std::string(Create(folder).status().message()),
              HasSubstr("the tokenizer has 258 tokens, the model 200"));
}

}  // namespace
}  // namespace sparseserve
