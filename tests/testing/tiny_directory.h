#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/test_folder.h"

namespace sparseserve::testing {

// A model directory of a few kilobytes in the form of Hugging Face's libraries,
// with zeros for weights. Change its parts, then Write().
struct TinyDirectory {
  struct Tensor {
    std::string name;
    std::string type = "BF16";
    std::vector<int64_t> shape;
  };

  // The configuration and tensors of this model_type: "llama" or
  // "gemma3_text", with one layer.
  explicit TinyDirectory(std::string_view model_type = "llama");

  static constexpr int kVocabSize = 264;

  // Null if there is none.
  Tensor* Find(std::string_view name);
  // The bytes of a file of these tensors.
  static std::string File(const std::vector<Tensor>& tensors);
  // config.json, model.safetensors and tokenizer.json.
  void Write(const TestFolder& folder) const;
  // The index of two shards, the first of `first` tensors.
  std::string Index(size_t first) const;
  // config.json, tokenizer.json, that index and its shards.
  void WriteShards(const TestFolder& folder, size_t first) const;

  nlohmann::json config;
  std::vector<Tensor> tensors;
};

// A tokenizer.json of byte-level BPE: token b < 256 is the byte b, 256 is
// <|endoftext|> and 257 <|im_end|>, as TinyModel's. There are no merges.
std::string ByteTokenizerJson();

}  // namespace sparseserve::testing
