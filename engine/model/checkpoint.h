#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/tensor_view.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// A tensor as its checkpoint describes it.
struct CheckpointTensor {
  std::string name;            // the engine's, which is GGUF's
  std::optional<DType> dtype;  // set if the stored type is one that we read
  std::vector<int64_t> shape;  // fastest dimension first
  // Belongs to every element besides what is stored: 1 for Gemma's norms,
  // whose safetensors files hold the gain less 1.
  float offset = 0;

  int64_t elements() const;
};

// A model as it lies on disk, in one of the forms that OpenCheckpoint() knows.
// Tensors go by the engine's names, which are GGUF's: "token_embd.weight",
// "blk.0.attn_q.weight". Stored bytes are views of mapped files (see
// MappedFile for what may not happen to them meanwhile), valid for the life of
// this object. Immutable; any thread may call it.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual const ModelConfig& config() const = 0;
  // What the files call the model; may be empty.
  virtual std::string name() const = 0;
  // Of all mapped files.
  virtual int64_t file_bytes() const = 0;
  // Of all mapped files, in an order that is always the same.
  virtual std::vector<absl::Span<const std::byte>> contents() const = 0;
  // MappedFile::ForgetPages() of all mapped files: of matrices that have copies
  // hardly anything is read again.
  virtual void ForgetPages() const = 0;

  virtual const std::vector<CheckpointTensor>& tensors() const = 0;
  // Null if there is no such tensor.
  virtual const CheckpointTensor* FindTensor(std::string_view name) const = 0;
  // What the files call the tensor, for messages.
  virtual std::string StoredName(std::string_view name) const = 0;
  // A two-dimensional tensor. NOT_FOUND names a missing tensor;
  // INVALID_ARGUMENT names the tensor and its type if that is not one that we
  // read, or its shape if it has not two dimensions.
  virtual absl::StatusOr<StoredMatrix> GetMatrix(
      std::string_view name) const = 0;
  // Likewise a one-dimensional tensor, as one row. Its `offset` is not added.
  virtual absl::StatusOr<StoredMatrix> GetVector(
      std::string_view name) const = 0;

  // They keep nothing of the files. INVALID_ARGUMENT or UNIMPLEMENTED names
  // what is missing, malformed or not known.
  virtual absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const = 0;
  // Null if there is no template or not one that we know.
  virtual absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate()
      const = 0;
};

// A GGUF file, or a directory as Hugging Face's libraries write it. Checks all
// that the files claim but the values of weights. NOT_FOUND if there is nothing
// at `path`; INVALID_ARGUMENT names the file and what is wrong inside;
// UNIMPLEMENTED names what the engine lacks.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(
    const std::string& path);

}  // namespace sparseserve
