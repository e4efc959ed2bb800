#include "tests/testing/tiny_directory.h"

#include <utility>

#include "engine/tokenizer/byte_alphabet.h"

namespace sparseserve::testing {
namespace {

using Json = nlohmann::json;

constexpr const char* kShards[] = {"model-00001-of-00002.safetensors",
                                   "model-00002-of-00002.safetensors"};

int64_t ElementBytes(std::string_view type) { return type == "F32" ? 4 : 2; }

}  // namespace

TinyDirectory::TinyDirectory(std::string_view model_type) {
  config = Json{{"model_type", std::string(model_type)},
                {"hidden_size", 32},
                {"intermediate_size", 64},
                {"num_hidden_layers", 1},
                {"num_attention_heads", 2},
                {"num_key_value_heads", 1},
                {"head_dim", 16},
                {"vocab_size", kVocabSize},
                {"max_position_embeddings", 128},
                {"rms_norm_eps", 1e-5},
                {"sliding_window", 32},
                {"tie_word_embeddings", true}};
  const std::string layer = "model.layers.0.";
  tensors = {
      {"model.embed_tokens.weight", "BF16", {kVocabSize, 32}},
      {"model.norm.weight", "F32", {32}},
      {layer + "input_layernorm.weight", "BF16", {32}},
      {layer + "self_attn.q_proj.weight", "F16", {32, 32}},
      {layer + "self_attn.k_proj.weight", "BF16", {16, 32}},
      {layer + "self_attn.v_proj.weight", "BF16", {16, 32}},
      {layer + "self_attn.o_proj.weight", "F32", {32, 32}},
      {layer + "post_attention_layernorm.weight", "BF16", {32}},
      {layer + "mlp.gate_proj.weight", "BF16", {64, 32}},
      {layer + "mlp.up_proj.weight", "BF16", {64, 32}},
      {layer + "mlp.down_proj.weight", "BF16", {32, 64}},
  };
  if (model_type != "gemma3_text") return;
  for (const char* name :
       {"pre_feedforward_layernorm", "post_feedforward_layernorm"}) {
    tensors.push_back({layer + name + ".weight", "BF16", {32}});
  }
  for (const char* name : {"self_attn.q_norm", "self_attn.k_norm"}) {
    tensors.push_back({layer + name + ".weight", "BF16", {16}});
  }
}

TinyDirectory::Tensor* TinyDirectory::Find(std::string_view name) {
  for (Tensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

std::string TinyDirectory::File(const std::vector<Tensor>& tensors) {
  SafetensorsWriter writer;
  for (const Tensor& tensor : tensors) {
    int64_t bytes = ElementBytes(tensor.type);
    for (const int64_t size : tensor.shape) bytes *= size;
    writer.Add(tensor.name, tensor.type, tensor.shape, std::string(bytes, 0));
  }
  return writer.Build();
}

void TinyDirectory::Write(const TestFolder& folder) const {
  folder.Write("config.json", config.dump());
  folder.Write("tokenizer.json", ByteTokenizerJson());
  folder.Write("model.safetensors", File(tensors));
}

std::string TinyDirectory::Index(size_t first) const {
  Json map;
  for (size_t i = 0; i < tensors.size(); ++i) {
    map[tensors[i].name] = kShards[i < first ? 0 : 1];
  }
  const Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
  return index.dump();
}

void TinyDirectory::WriteShards(const TestFolder& folder, size_t first) const {
  const auto middle = tensors.begin() + static_cast<int64_t>(first);
  folder.Write("config.json", config.dump());
  folder.Write("tokenizer.json", ByteTokenizerJson());
  folder.Write(kShards[0], File({tensors.begin(), middle}));
  folder.Write(kShards[1], File({middle, tensors.end()}));
  folder.Write("model.safetensors.index.json", Index(first));
}

std::string ByteTokenizerJson() {
  Json vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[ByteToAlphabet(static_cast<uint8_t>(byte))] = byte;
  }
  Json added = Json::array();
  for (const auto& [id, text] :
       {std::pair(256, "<|endoftext|>"), std::pair(257, "<|im_end|>")}) {
    added.push_back({{"id", id}, {"content", text}, {"special", true}});
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const Json tokenizer = {
      {"added_tokens", added},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  return tokenizer.dump();
}

}  // namespace sparseserve::testing
