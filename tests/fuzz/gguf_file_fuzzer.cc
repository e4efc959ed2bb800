// Feeds arbitrary bytes to the GGUF reader and, where they are a file, reads
// all that it offers. See tests/fuzz/README.md.

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "engine/base/check.h"
#include "engine/model/gguf_file.h"
#include "engine/model/gguf_tokenizer.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

// Expands the first row, which must lie within the tensor.
void ReadFirstRow(const StoredMatrix& matrix) {
  if (matrix.columns > 4096) return;
  std::vector<float> row(static_cast<size_t>(matrix.columns));
  DequantizeRow(matrix.dtype, matrix.data, matrix.columns, row.data());
}

void ReadTensors(const GgufFile& file) {
  for (const GgufTensor& tensor : file.tensors()) {
    SPARSESERVE_CHECK(file.FindTensor(tensor.name) == &tensor);
    if (const auto matrix = file.GetMatrix(tensor.name); matrix.ok()) {
      ReadFirstRow(*matrix);
    }
    if (const auto vector = file.GetVector(tensor.name); vector.ok()) {
      ReadFirstRow(*vector);
    }
    // Every byte that the directory promises is there.
    std::accumulate(tensor.data, tensor.data + tensor.bytes, 0,
                    [](int sum, std::byte byte) {
                      return sum ^ std::to_integer<int>(byte);
                    });
  }
}

void ReadTokenizer(const GgufMetadata& metadata) {
  const auto tokenizer = LoadTokenizer(metadata);
  const auto chat_template = LoadChatTemplate(metadata);
  if (!tokenizer.ok()) return;
  const auto tokens = (*tokenizer)->Encode("Hi  <|im_end|> 12½", true);
  SPARSESERVE_CHECK(tokens.ok());
  for (const TokenId token : *tokens) {
    SPARSESERVE_CHECK(token >= 0 && token < (*tokenizer)->vocab_size());
  }
  if (chat_template.ok() && *chat_template != nullptr) {
    const std::vector<ChatMessage> messages = {{"user", "Hi"}};
    (*chat_template)->Encode(**tokenizer, messages).IgnoreError();
  }
}

}  // namespace
}  // namespace sparseserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = sparseserve::GgufFile::Parse(
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(data), size));
  if (!file.ok()) return 0;
  sparseserve::ReadTensors(**file);
  sparseserve::ReadTokenizer((*file)->metadata());
  return 0;
}
