// What broken and hostile model directories get: an error, and no memory to
// speak of.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/hf_config.h"
#include "engine/model/safetensors_file.h"
#include "gtest/gtest.h"
#include "tests/testing/largest_request.h"
#include "tests/testing/mutation.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/test_folder.h"
#include "tests/testing/tiny_directory.h"

namespace sparseserve {
namespace {

using testing::ForgetRequests;
using testing::LargestRequest;
using testing::Mutate;
using testing::SafetensorsBytes;
using testing::TestFolder;
using testing::TinyDirectory;

// Parses a copy of exact size, so that a sanitizer sees any byte read beyond
// it, and then reads every byte of every tensor. False if it is refused.
bool ReadsInFull(const std::string& text) {
  const std::vector<char> bytes(text.begin(), text.end());
  const auto file = SafetensorsFile::Parse(absl::MakeConstSpan(
      reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
  if (!file.ok()) {
    EXPECT_FALSE(file.status().message().empty());
    return false;
  }
  int sum = 1;
  for (const SafetensorsTensor& tensor : (*file)->tensors()) {
    for (uint64_t i = 0; i < tensor.end - tensor.begin; ++i) {
      sum |= std::to_integer<int>(tensor.data[i]);
    }
  }
  EXPECT_GT(sum, 0);
  return true;
}

// A file with little data beside its header, so that most mutations hit that.
std::string SmallFile() {
  testing::SafetensorsWriter writer;
  writer.Add("model.layers.0.input_layernorm.weight", DType::kF32, {2},
             std::string(8, 'n'));
  writer.Add("ids", "I64", {}, std::string(8, 'i'));
  writer.Add("model.layers.0.self_attn.q_proj.weight", DType::kBF16, {2, 4},
             std::string(16, 'q'));
  return writer.Build();
}

TEST(SafetensorsMutationTest, EveryMutationIsAnErrorOrAFileThatReadsInFull) {
  const std::string original = SmallFile();
  ASSERT_TRUE(ReadsInFull(original));
  std::mt19937 random(20240608);
  int valid = 0;
  ForgetRequests();
  for (int i = 0; i < 30000; ++i)
    valid += ReadsInFull(Mutate(original, random));
  std::printf("%d mutations of 30000 are still valid files\n", valid);
  EXPECT_GT(valid, 300);
  EXPECT_LT(valid, 15000);
  EXPECT_LT(LargestRequest(), 4096) << "bytes in one allocation";
}

// Mutations of the header alone, with a length that fits it: what gets past
// the length's check.
TEST(SafetensorsMutationTest, EveryHeaderIsAnErrorOrOneThatReadsInFull) {
  const std::string original = SmallFile();
  const std::string header = original.substr(8, original.size() - 8 - 32);
  std::mt19937 random(20240609);
  int valid = 0;
  ForgetRequests();
  for (int i = 0; i < 30000; ++i) {
    valid += ReadsInFull(
        SafetensorsBytes(Mutate(header, random), original.substr(8, 32)));
  }
  std::printf("%d mutations of 30000 are still valid headers\n", valid);
  EXPECT_GT(valid, 300);
  EXPECT_LT(valid, 15000);
  EXPECT_LT(LargestRequest(), 4096) << "bytes in one allocation";
}

TEST(SafetensorsMutationTest, EveryTruncationIsRefused) {
  const std::string original = SmallFile();
  for (size_t length = 0; length < original.size(); ++length) {
    EXPECT_FALSE(ReadsInFull(original.substr(0, length))) << length;
  }
}

TEST(SafetensorsMutationTest, NestingTakesNoMemory) {
  for (const char* opening : {"[", "{\"a\":", "{\"a\":{\"shape\":["}) {
    std::string header = "{\"a\":{\"shape\":";
    for (int i = 0; i < 100'000; ++i) header += opening;
    ForgetRequests();
    EXPECT_FALSE(ReadsInFull(SafetensorsBytes(header, "")));
    // The copy of the file is the largest.
    EXPECT_LT(LargestRequest(), header.size() + 64);
  }
}

TEST(ConfigMutationTest, EveryMutationIsAnErrorOrAConfigurationInRange) {
  std::mt19937 random(20240610);
  int valid = 0;
  const char* const types[] = {"llama", "mistral", "smollm3",    "qwen2",
                               "qwen3", "gemma2",  "gemma3_text"};
  ForgetRequests();
  for (int i = 0; i < 30000; ++i) {
    const std::string original =
        TinyDirectory(types[i % std::size(types)]).config.dump();
    const auto config = ReadHfConfig(Mutate(original, random));
    if (!config.ok()) continue;
    ++valid;
    const ModelConfig& model = config->model;
    EXPECT_GE(model.layers, 1);
    EXPECT_LE(model.layers, 1024);
    EXPECT_EQ(model.layer_configs.size(), model.layers);
    EXPECT_EQ(model.heads % model.kv_heads, 0);
    EXPECT_EQ(model.head_dim % 8, 0);
    EXPECT_LE(model.head_dim, 256);
    EXPECT_LE(model.vocab_size, 1 << 22);
    EXPECT_GT(model.attention_scale, 0);
    EXPECT_GT(model.norm_epsilon, 0);
  }
  std::printf("%d mutations of 30000 are still valid configurations\n", valid);
  EXPECT_GT(valid, 300);
  EXPECT_LT(valid, 20000);
  // 1,024 layers' worth.
  EXPECT_LT(LargestRequest(), 65536) << "bytes in one allocation";
}

// Opens the directory and reads what it offers. False if it is refused.
bool Opens(const TestFolder& folder) {
  const auto checkpoint = OpenCheckpoint(folder.path());
  if (!checkpoint.ok()) {
    EXPECT_FALSE(checkpoint.status().message().empty());
    return false;
  }
  for (const CheckpointTensor& tensor : (*checkpoint)->tensors()) {
    for (const auto& matrix : {(*checkpoint)->GetMatrix(tensor.name),
                               (*checkpoint)->GetVector(tensor.name)}) {
      if (!matrix.ok()) continue;
      const int64_t bytes =
          matrix->rows * matrix->columns * BlockBytes(matrix->dtype);
      if (bytes > 0) {
        EXPECT_EQ(matrix->data[bytes - 1], std::byte{0}) << tensor.name;
      }
    }
  }
  return true;
}

TEST(DirectoryMutationTest, EveryMutationIsRefusedOrOpens) {
  const TestFolder folder;
  const TinyDirectory directory;
  directory.WriteShards(folder, 6);
  ASSERT_TRUE(Opens(folder));
  std::mt19937 random(20240611);
  const std::string index = directory.Index(6);
  const std::string config = directory.config.dump();
  int valid = 0;
  ForgetRequests();
  for (int i = 0; i < 2000; ++i) {
    folder.Write("model.safetensors.index.json",
                 i % 2 == 0 ? Mutate(index, random) : index);
    folder.Write("config.json", i % 2 == 1 ? Mutate(config, random) : config);
    valid += Opens(folder);
  }
  std::printf("%d mutations of 2000 are still valid directories\n", valid);
  EXPECT_GT(valid, 20);
  EXPECT_LT(valid, 1500);
  EXPECT_LT(LargestRequest(), 65536) << "bytes in one allocation";
}

}  // namespace
}  // namespace sparseserve
