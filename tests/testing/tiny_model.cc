#include "tests/testing/tiny_model.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve::testing {
namespace {

// A half with this exponent and a random mantissa: in [2^e, 2^(e + 1)).
uint16_t RandomHalf(int exponent, std::mt19937& random) {
  return static_cast<uint16_t>(((exponent + 15) << 10) | (random() & 0x3ff));
}

// Random elements of about the spread that keeps activations near 1:
// 1 / sqrt(columns).
class RandomMatrix {
 public:
  RandomMatrix(DType dtype, int64_t columns, std::mt19937& random)
      : dtype_(dtype),
        spread_(1.0f / std::sqrt(static_cast<float>(columns))),
        exponent_(static_cast<int>(std::floor(std::log2(spread_)))),
        random_(random) {}

  void AppendBlock(std::string& data) {
    switch (dtype_) {
      case DType::kF32:
        return AppendRaw(data, Value());
      case DType::kF16: {
        const uint16_t sign = random_() % 2 == 0 ? 0 : 0x8000;
        return AppendRaw<uint16_t>(data,
                                   RandomHalf(exponent_ - 1, random_) | sign);
      }
      case DType::kBF16:
        return AppendRaw(data, FloatToBFloat16(Value()));
      case DType::kQ8_0: {
        BlockQ8_0 block;
        block.d = RandomHalf(exponent_ - 7, random_);
        for (int8_t& quant : block.quants) {
          quant = static_cast<int8_t>(random_() % 255 - 127);
        }
        return AppendRaw(data, block);
      }
      case DType::kQ4_0: {
        BlockQ4_0 block;
        block.d = RandomHalf(exponent_ - 3, random_);
        for (uint8_t& quants : block.quants) quants = random_() & 0xff;
        return AppendRaw(data, block);
      }
      case DType::kQ4_1: {
        BlockQ4_1 block;
        block.d = RandomHalf(exponent_ - 3, random_);
        block.m = RandomHalf(exponent_, random_) | 0x8000;
        for (uint8_t& quants : block.quants) quants = random_() & 0xff;
        return AppendRaw(data, block);
      }
      case DType::kQ5_0: {
        BlockQ5_0 block;
        FillRandom(block);
        block.d = RandomHalf(exponent_ - 4, random_);
        return AppendRaw(data, block);
      }
      case DType::kQ5_1: {
        BlockQ5_1 block;
        FillRandom(block);
        block.d = RandomHalf(exponent_ - 4, random_);
        block.m = RandomHalf(exponent_, random_) | 0x8000;
        return AppendRaw(data, block);
      }
      // Scales of parts are 0 ... 63, or -128 ... 127 in Q6_K.
      case DType::kQ4_K: {
        BlockQ4_K block;
        FillRandom(block);
        block.d = RandomHalf(exponent_ - 8, random_);
        block.dmin = RandomHalf(exponent_ - 5, random_);
        return AppendRaw(data, block);
      }
      case DType::kQ5_K: {
        BlockQ5_K block;
        FillRandom(block);
        block.d = RandomHalf(exponent_ - 9, random_);
        block.dmin = RandomHalf(exponent_ - 5, random_);
        return AppendRaw(data, block);
      }
      case DType::kQ6_K: {
        BlockQ6_K block;
        FillRandom(block);
        block.d = RandomHalf(exponent_ - 11, random_);
        return AppendRaw(data, block);
      }
    }
  }

 private:
  template <typename Block>
  void FillRandom(Block& block) {
    for (std::byte& byte :
         absl::MakeSpan(reinterpret_cast<std::byte*>(&block), sizeof(block))) {
      byte = static_cast<std::byte>(random_());
    }
  }

  float Value() { return std::normal_distribution<float>(0, spread_)(random_); }

  const DType dtype_;
  const float spread_;
  const int exponent_;
  std::mt19937& random_;
};

std::string RandomData(DType dtype, int rows, int columns,
                       std::mt19937& random) {
  SPARSESERVE_CHECK(columns % BlockElements(dtype) == 0);
  RandomMatrix matrix(dtype, columns, random);
  std::string data;
  for (int64_t i = 0; i < int64_t{rows} * columns / BlockElements(dtype); ++i) {
    matrix.AppendBlock(data);
  }
  return data;
}

void AddNorm(GgufWriter& writer, const std::string& name, int size,
             std::mt19937& random, float factor = 1.0f) {
  std::vector<float> gain(size);
  for (float& value : gain) {
    value = factor * std::uniform_real_distribution<float>(0.5f, 1.5f)(random);
  }
  writer.AddFloats(name, 0, size, gain);
}

// GPT-2's reversible map from bytes to printable characters, as UTF-8: bytes
// that print stand for themselves, the others for U+0100 and on, in order.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> tokens;
  int shifted = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7e) ||
                        (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const int code = prints ? byte : 0x100 + shifted++;
    if (code < 0x80) {
      tokens.emplace_back(1, static_cast<char>(code));
    } else {
      tokens.push_back({static_cast<char>(0xc0 | (code >> 6)),
                        static_cast<char>(0x80 | (code & 0x3f))});
    }
  }
  return tokens;
}

}  // namespace

std::string TinyModel::Build() const {
  GgufWriter writer;
  AddMetadata(writer);
  AddTensors(writer);
  return writer.Build();
}

void TinyModel::AddMetadata(GgufWriter& writer) const {
  auto changes = overrides;
  const auto add = [&](const std::string& key, GgufWriter::Value value) {
    const auto change = changes.extract(key);
    if (change.empty()) return writer.Add(key, value);
    if (change.mapped().has_value()) writer.Add(key, *change.mapped());
  };
  const auto add_count = [&](const char* key, int value) {
    add(key, static_cast<uint32_t>(value));
  };
  add("general.architecture", std::string("llama"));
  add("general.name", std::string("tiny"));
  add_count("llama.block_count", layers);
  add_count("llama.context_length", context_tokens);
  add_count("llama.embedding_length", hidden);
  add_count("llama.feed_forward_length", mlp_hidden);
  add_count("llama.attention.head_count", heads);
  add_count("llama.attention.head_count_kv", kv_heads);
  add_count("llama.attention.key_length", head_dim);
  add_count("llama.attention.value_length", head_dim);
  add_count("llama.rope.dimension_count", head_dim);
  add_count("llama.vocab_size", kVocabSize);
  add("llama.rope.freq_base", rope_base);
  add("llama.attention.layer_norm_rms_epsilon", 1e-5f);

  std::vector<std::string> tokens = ByteTokens();
  std::vector<int32_t> types(tokens.size(), 1);  // normal
  for (const char* special : {"<|endoftext|>", "<|im_end|>"}) {
    tokens.push_back(special);
    types.push_back(3);  // control
  }
  add("tokenizer.ggml.model", std::string("gpt2"));
  add("tokenizer.ggml.pre", std::string("smollm"));
  add("tokenizer.ggml.tokens", tokens);
  add("tokenizer.ggml.token_type", types);
  add("tokenizer.ggml.merges", std::vector<std::string>());
  add("tokenizer.ggml.eos_token_id", uint32_t{257});
  for (const auto& [key, value] : changes) {
    if (value.has_value()) writer.Add(key, *value);
  }
}

void TinyModel::AddTensors(GgufWriter& writer) const {
  std::mt19937 random(seed);
  const auto add = [&](const std::string& prefix, const std::string& part,
                       int rows, int columns) {
    const auto other = part_dtypes.find(part);
    const DType stored = other == part_dtypes.end() ? dtype : other->second;
    std::string data = RandomData(stored, rows, columns, random);
    if (part == "token_embd" && poisoned_token >= 0 && stored == DType::kF32) {
      const size_t row_bytes = columns * sizeof(float);
      // A float of ones in every bit is a NaN.
      data.replace(poisoned_token * row_bytes, row_bytes, row_bytes, '\xff');
    }
    writer.AddTensor(
        prefix + part + ".weight", stored,
        {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)}, data);
  };
  add("", "token_embd", kVocabSize, hidden);
  for (int layer = 0; layer < layers; ++layer) {
    const std::string prefix = absl::StrCat("blk.", layer, ".");
    AddNorm(writer, prefix + "attn_norm.weight", hidden, random,
            attention_gain);
    add(prefix, "attn_q", heads * head_dim, hidden);
    add(prefix, "attn_k", kv_heads * head_dim, hidden);
    add(prefix, "attn_v", kv_heads * head_dim, hidden);
    add(prefix, "attn_output", hidden, heads * head_dim);
    AddNorm(writer, prefix + "ffn_norm.weight", hidden, random);
    add(prefix, "ffn_gate", mlp_hidden, hidden);
    add(prefix, "ffn_up", mlp_hidden, hidden);
    add(prefix, "ffn_down", hidden, mlp_hidden);
  }
  AddNorm(writer, "output_norm.weight", hidden, random);
  if (!tied) add("", "output", kVocabSize, hidden);
}

TestFile::TestFile(const std::string& bytes)
    : path_(std::filesystem::temp_directory_path() / "sparseserve_XXXXXX") {
  const int file = mkstemp(path_.data());
  SPARSESERVE_CHECK(file >= 0);
  SPARSESERVE_CHECK(write(file, bytes.data(), bytes.size()) ==
                    static_cast<ssize_t>(bytes.size()));
  SPARSESERVE_CHECK(close(file) == 0);
}

TestFile::~TestFile() { std::filesystem::remove(path_); }

}  // namespace sparseserve::testing
