#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "engine/tensor/dtype.h"
#include "tests/testing/gguf_writer.h"

namespace sparseserve::testing {

// A llama model small enough to be run in double precision by a test, with
// random weights and a byte-level tokenizer of 256 bytes and two special
// tokens (end of text 256, end of turn 257).
struct TinyModel {
  static constexpr int kVocabSize = 258;

  int layers = 2;
  int hidden = 64;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 16;
  int mlp_hidden = 96;
  int context_tokens = 512;
  float rope_base = 10000.0f;
  bool tied = true;
  // Of every matrix; norms are F32. The columns of every matrix, `hidden`,
  // `mlp_hidden` and heads * head_dim, are then whole blocks.
  DType dtype = DType::kF32;
  // Of matrices by part, such as "ffn_down", that are not of `dtype`.
  std::map<std::string, DType> part_dtypes = {};
  uint32_t seed = 1;
  // Multiplies the gains of the norms before attention, so scores by its
  // square: weights of attention are nearly even otherwise.
  float attention_gain = 1.0f;
  // This token's embedding is NaN, if not negative and `dtype` is kF32.
  int poisoned_token = -1;
  // Metadata to write otherwise, or (no value) to leave out.
  std::map<std::string, std::optional<GgufWriter::Value>> overrides = {};

  // The whole file.
  std::string Build() const;
  // Its parts, for files that are to be wrong somewhere.
  void AddMetadata(GgufWriter& writer) const;
  void AddTensors(GgufWriter& writer) const;
};

// Bytes in a file of their own, which goes when this does.
class TestFile {
 public:
  explicit TestFile(const std::string& bytes);
  ~TestFile();
  TestFile(const TestFile&) = delete;
  TestFile& operator=(const TestFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace sparseserve::testing
