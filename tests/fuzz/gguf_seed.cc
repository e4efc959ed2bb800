// Writes a small valid GGUF file, from which a fuzzer may begin:
//   gguf_seed PATH

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/testing/byte_level_vocabulary.h"
#include "tests/testing/gguf_writer.h"

int main(int argc, char** argv) {
  using sparseserve::testing::GgufWriter;
  if (argc != 2) return 2;
  GgufWriter writer;
  writer.Add("general.architecture", std::string("llama"));
  writer.Add("llama.block_count", uint32_t{1});
  writer.Add("ratio", 0.5f);
  writer.Add("flag", true);
  sparseserve::testing::AddVocabulary(
      sparseserve::testing::ByteLevelVocabulary({"a b", "ab c"}), writer);
  writer.Add("tokenizer.chat_template",
             std::string("{{ '<|im_start|>system\\nHi<|im_end|>' }}"));
  for (const sparseserve::DType dtype : sparseserve::kAllDTypes) {
    const int elements = sparseserve::BlockElements(dtype);
    const std::string_view name = sparseserve::DTypeName(dtype);
    writer.AddTensor(name, dtype, {static_cast<uint64_t>(elements), 2},
                     std::string(2 * sparseserve::BlockBytes(dtype), 'q'));
  }
  writer.AddFloats("norm", 0, 8, std::vector<float>(8, 1.0f));
  std::ofstream(argv[1], std::ios::binary) << writer.Build();
  return 0;
}
