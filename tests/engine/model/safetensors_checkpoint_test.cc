#include "engine/model/safetensors_checkpoint.h"

#include <filesystem>
#include <string>
#include <vector>

#include "engine/backend/create_backend.h"
#include "engine/model/model_weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"
#include "tests/testing/tiny_directory.h"

namespace sparseserve {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestFolder;
using testing::TinyDirectory;

constexpr const char* kFirstShard = "model-00001-of-00002.safetensors";
constexpr const char* kSecondShard = "model-00002-of-00002.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

std::string ErrorOf(const TestFolder& folder) {
  const auto checkpoint = OpenCheckpoint(folder.path());
  if (checkpoint.ok()) return "";
  EXPECT_EQ(checkpoint.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(checkpoint.status().message());
}

absl::Status LoadWeights(const TestFolder& folder) {
  const auto checkpoint = OpenCheckpoint(folder.path());
  if (!checkpoint.ok()) return checkpoint.status();
  const auto backend =
      CreateBackend({.threads = 1, .compute_dtype = "f32"}).value();
  return LoadModelWeights(*backend, **checkpoint, (*checkpoint)->config(), {})
      .status();
}

TEST(SafetensorsCheckpointTest, TensorsHaveTheEnginesNamesAndOrder) {
  const TestFolder folder;
  TinyDirectory().Write(folder);
  const auto checkpoint = OpenCheckpoint(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();

  const CheckpointTensor* k = (*checkpoint)->FindTensor("blk.0.attn_k.weight");
  ASSERT_NE(k, nullptr);
  EXPECT_THAT(k->shape, ElementsAre(32, 16));
  EXPECT_EQ(k->dtype, DType::kBF16);
  EXPECT_EQ((*checkpoint)->StoredName("blk.0.attn_k.weight"),
            "model.layers.0.self_attn.k_proj.weight");
  const auto matrix = (*checkpoint)->GetMatrix("blk.0.attn_k.weight");
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(matrix->rows, 16);
  EXPECT_EQ(matrix->columns, 32);
  const auto norm = (*checkpoint)->GetVector("output_norm.weight");
  ASSERT_TRUE(norm.ok()) << norm.status();
  EXPECT_EQ(norm->columns, 32);
  EXPECT_EQ(norm->dtype, DType::kF32);
}

TEST(SafetensorsCheckpointTest, EveryTensorOfALlamaIsUsed) {
  const TestFolder folder;
  TinyDirectory().Write(folder);
  EXPECT_TRUE(LoadWeights(folder).ok()) << LoadWeights(folder);
}

TEST(SafetensorsCheckpointTest, NameAndSizeAreTheDirectorys) {
  const TestFolder folder;
  TinyDirectory().Write(folder);
  for (const std::string& path : {folder.path(), folder.path() + "/"}) {
    const auto checkpoint = OpenCheckpoint(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ((*checkpoint)->name(),
              std::filesystem::path(folder.path()).filename().string());
    EXPECT_EQ((*checkpoint)->file_bytes(),
              std::filesystem::file_size(folder.path() + "/model.safetensors"));
  }
}

TEST(SafetensorsCheckpointTest, GemmasNormsHoldTheGainLessOne) {
  const TestFolder folder;
  TinyDirectory("gemma3_text").Write(folder);
  const auto checkpoint = OpenCheckpoint(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const char* name :
       {"output_norm.weight", "blk.0.attn_norm.weight",
        "blk.0.post_attention_norm.weight", "blk.0.ffn_norm.weight",
        "blk.0.post_ffw_norm.weight", "blk.0.attn_q_norm.weight",
        "blk.0.attn_k_norm.weight"}) {
    const CheckpointTensor* tensor = (*checkpoint)->FindTensor(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->offset, 1) << name;
  }
  EXPECT_EQ((*checkpoint)->FindTensor("token_embd.weight")->offset, 0);
}

TEST(SafetensorsCheckpointTest, VectorsLoadWithWhatTheirFilesLeaveOut) {
  for (const auto& [model_type, gain] :
       {std::pair("llama", 0.0f), std::pair("gemma3_text", 1.0f)}) {
    const TestFolder folder;
    TinyDirectory(model_type).Write(folder);  // every stored value is 0
    const auto checkpoint = OpenCheckpoint(folder.path()).value();
    const auto backend =
        CreateBackend({.threads = 1, .compute_dtype = "f32"}).value();
    const auto weights =
        LoadModelWeights(*backend, *checkpoint, checkpoint->config(), {});
    ASSERT_TRUE(weights.ok()) << weights.status();
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(weights->output_norm.as<float>()[i], gain) << model_type;
      EXPECT_EQ(weights->layers[0].mlp_norm.as<float>()[i], gain) << model_type;
    }
  }
}

TEST(SafetensorsCheckpointTest, HeadIsTheTableIfTied) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.tensors.push_back({"lm_head.weight", "BF16", {264, 32}});
  directory.Write(folder);
  EXPECT_EQ(OpenCheckpoint(folder.path()).value()->FindTensor("output.weight"),
            nullptr);
  EXPECT_TRUE(LoadWeights(folder).ok());

  directory.config["tie_word_embeddings"] = false;
  directory.Write(folder);
  EXPECT_NE(OpenCheckpoint(folder.path()).value()->FindTensor("output.weight"),
            nullptr);
  EXPECT_TRUE(LoadWeights(folder).ok());

  directory.tensors.pop_back();
  directory.Write(folder);
  EXPECT_THAT(ErrorOf(folder), HasSubstr("tensor lm_head.weight is missing, "
                                         "but tie_word_embeddings is false"));
}

TEST(SafetensorsCheckpointTest, BuffersThatFollowFromTheConfigAreSkipped) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.tensors.push_back(
      {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {8}});
  directory.Write(folder);
  EXPECT_TRUE(LoadWeights(folder).ok()) << LoadWeights(folder);
}

TEST(SafetensorsCheckpointTest, OtherTensorsWithoutUseAreNotIgnored) {
  for (const char* name :
       {"model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.x",
        "score.weight", "blk.0.attn_q.weight.scale",
        "model.layers.00.self_attn.q_proj.weight", "\\\"\\u00e4"}) {
    const TestFolder folder;
    TinyDirectory directory;
    directory.tensors.push_back({name, "BF16", {32}});
    directory.Write(folder);
    const absl::Status status = LoadWeights(folder);
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("has no use"));
  }
}

TEST(SafetensorsCheckpointTest, TensorsThatAreWrongAreNamedAsInTheFiles) {
  struct Row {
    std::function<void(TinyDirectory&)> spoil;
    std::string message;
  };
  const std::string gate = "model.layers.0.mlp.gate_proj.weight";
  const std::vector<Row> table = {
      {[&](auto& d) { d.Find(gate)->name = "score.weight"; },
       "tensor model.layers.0.mlp.gate_proj.weight is missing, wanted shape "
       "[32, 64]"},
      {[&](auto& d) {
         d.Find(gate)->shape = {32, 64};
       },
       "tensor model.layers.0.mlp.gate_proj.weight has shape [64, 32], wanted "
       "[32, 64]"},
      {[&](auto& d) { d.Find(gate)->type = "I16"; },
       "gate_proj.weight\" is \"I16\"; read from safetensors are F32, F16 and "
       "BF16"},
      {[&](auto& d) {
         d.Find("model.norm.weight")->shape = {32, 1};
       },
       "tensor model.norm.weight has shape [1, 32], wanted [32]"},
      {[](auto& d) { d.config["intermediate_size"] = 40; }, "wanted [32, 40]"},
  };
  for (const Row& row : table) {
    const TestFolder folder;
    TinyDirectory directory;
    row.spoil(directory);
    directory.Write(folder);
    const absl::Status status = LoadWeights(folder);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message));
  }
}

TEST(SafetensorsCheckpointTest, MisalignedTensorIsRefused) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.tensors.insert(directory.tensors.begin(),
                           {"x.rotary_emb.inv_freq", "BF16", {1}});
  directory.Write(folder);
  const absl::Status status = LoadWeights(folder);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor \"model.norm.weight\" does not begin at a "
                        "multiple of its elements' 4 bytes"));
}

TEST(SafetensorsCheckpointTest, ImageHalfIsLeftOut) {
  const TestFolder folder;
  TinyDirectory directory("gemma3_text");
  for (TinyDirectory::Tensor& tensor : directory.tensors) {
    tensor.name = "language_model." + tensor.name;
  }
  directory.tensors.push_back({"vision_tower.x.weight", "BF16", {2}});
  directory.tensors.push_back({"multi_modal_projector.x", "BF16", {2}});
  directory.config =
      Json{{"model_type", "gemma3"}, {"text_config", directory.config}};
  directory.Write(folder);
  const auto checkpoint = OpenCheckpoint(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), directory.tensors.size() - 2);
  EXPECT_NE((*checkpoint)->FindTensor("blk.0.attn_q.weight"), nullptr);
}

TEST(SafetensorsCheckpointTest, TensorUnderTwoNamesIsRefused) {
  const TestFolder folder;
  TinyDirectory directory("gemma3_text");
  directory.tensors.push_back(
      {"language_model.model.norm.weight", "F32", {32}});
  directory.config =
      Json{{"model_type", "gemma3"}, {"text_config", directory.config}};
  directory.Write(folder);
  EXPECT_THAT(ErrorOf(folder), HasSubstr("is there a second time by another "
                                         "name, \"model.norm.weight\""));
}

TEST(SafetensorsCheckpointTest, MissingFilesAreNamed) {
  const TestFolder folder;
  EXPECT_THAT(ErrorOf(folder), HasSubstr("it has no config.json"));
  const TinyDirectory directory;
  folder.Write("config.json", directory.config.dump());
  folder.Write("pytorch_model.bin", "x");
  EXPECT_THAT(ErrorOf(folder), HasSubstr("has neither model.safetensors nor "
                                         "model.safetensors.index.json"));
  EXPECT_EQ(OpenCheckpoint(folder.path() + "/missing").status().code(),
            absl::StatusCode::kNotFound);
  folder.Write("model.safetensors", "x");
  EXPECT_THAT(std::string(OpenCheckpoint(folder.path() + "/model.safetensors")
                              .status()
                              .message()),
              HasSubstr("name the directory that it is in"));
}

TEST(SafetensorsCheckpointTest, LargeOrWrongConfigurationIsNamedWithItsPath) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.Write(folder);
  folder.Write("config.json", std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr("/config.json has 1048577 bytes, more than 1048576"));
  folder.Write("config.json", "{");
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr(folder.path() + ": config.json is not JSON"));
  directory.Write(folder);
  folder.Write("generation_config.json", R"({"eos_token_id": 264})");
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr("generation_config.json: eos_token_id is 264"));
}

TEST(SafetensorsCheckpointTest, ShardsAreOneModel) {
  const TestFolder folder;
  const TinyDirectory directory;
  directory.WriteShards(folder, 5);
  EXPECT_TRUE(LoadWeights(folder).ok()) << LoadWeights(folder);
  const auto checkpoint = OpenCheckpoint(folder.path()).value();
  EXPECT_EQ(checkpoint->tensors().size(), directory.tensors.size());
  EXPECT_EQ(checkpoint->file_bytes(),
            std::filesystem::file_size(folder.path() + "/" + kFirstShard) +
                std::filesystem::file_size(folder.path() + "/" + kSecondShard));
}

TEST(SafetensorsCheckpointTest, FileIsTakenBeforeShards) {
  const TestFolder folder;
  TinyDirectory().Write(folder);
  folder.Write(kIndex, "{");
  EXPECT_TRUE(OpenCheckpoint(folder.path()).ok());
}

TEST(SafetensorsCheckpointTest, IndexThatIsWrongIsAnError) {
  struct Row {
    std::string index;
    std::string message;
  };
  const std::vector<Row> table = {
      {"{", "model.safetensors.index.json is not JSON at byte 1"},
      {"{}", "model.safetensors.index.json has no weight_map"},
      {R"({"weight_map": []})", "weight_map is an array of 0, not an object"},
      {R"({"weight_map": {"a": 1}})", "weight_map of \"a\" is 1"},
      {R"({"weight_map": {"a": "x.bin"}})",
       "weight_map names the file \"x.bin\", not a plain name that ends in "
       ".safetensors"},
      {R"({"weight_map": {"a": "../model.safetensors"}})", "\"../model"},
      {R"({"weight_map": {"a": "/etc/x.safetensors"}})", "\"/etc/x"},
      {R"({"weight_map": {"a": "..\\x.safetensors"}})", "not a plain name"},
      {R"({"weight_map": {"a": "x\u0000.safetensors"}})", "not a plain name"},
      {R"({"weight_map": {"a": ".safetensors"}})", "not a plain name"},
      {R"({"weight_map": {"a": "missing.safetensors"}})",
       "/missing.safetensors is missing; model.safetensors.index.json puts "
       "tensor \"a\" there"},
      {R"({"weight_map": {"a": "model-00001-of-00002.safetensors",
                          "a": "model-00002-of-00002.safetensors"}})",
       "has the key \"a\" twice"},
      {R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}})",
       "is in model-00001-of-00002.safetensors, but "
       "model.safetensors.index.json does not name it"},
  };
  for (const Row& row : table) {
    const TestFolder folder;
    TinyDirectory().WriteShards(folder, 5);
    folder.Write(kIndex, row.index);
    EXPECT_THAT(ErrorOf(folder), HasSubstr(row.message)) << row.index;
  }
}

TEST(SafetensorsCheckpointTest, IndexAndShardsMustAgree) {
  const TestFolder folder;
  TinyDirectory directory;
  directory.WriteShards(folder, 5);
  // One tensor less than the index names.
  std::vector<TinyDirectory::Tensor> first(directory.tensors.begin(),
                                           directory.tensors.begin() + 4);
  folder.Write(kFirstShard, TinyDirectory::File(first));
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr("k_proj.weight\" is not in " + folder.path() + "/" +
                        kFirstShard + ", where model.safetensors.index.json"));
  // One that is in the other shard too.
  first.assign(directory.tensors.begin(), directory.tensors.begin() + 6);
  folder.Write(kFirstShard, TinyDirectory::File(first));
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr(std::string("v_proj.weight\" is in ") + kFirstShard +
                        ", but model.safetensors.index.json puts it in " +
                        kSecondShard));
}

}  // namespace
}  // namespace sparseserve
