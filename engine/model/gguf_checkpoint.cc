#include "engine/model/gguf_checkpoint.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "engine/model/gguf_tokenizer.h"

namespace sparseserve {

GgufCheckpoint::GgufCheckpoint(std::unique_ptr<GgufFile> file)
    : file_(std::move(file)) {
  for (const GgufTensor& tensor : file_->tensors()) {
    tensors_.push_back({.name = std::string(tensor.name),
                        .dtype = tensor.dtype,
                        .shape = tensor.shape});
  }
}

absl::StatusOr<std::unique_ptr<GgufCheckpoint>> GgufCheckpoint::Open(
    const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  return FromFile(std::move(file));
}

absl::StatusOr<std::unique_ptr<GgufCheckpoint>> GgufCheckpoint::FromFile(
    std::unique_ptr<GgufFile> file) {
  constexpr std::string_view kNameKey = "general.name";
  std::unique_ptr<GgufCheckpoint> checkpoint(
      new GgufCheckpoint(std::move(file)));
  const GgufMetadata& metadata = checkpoint->file_->metadata();
  ASSIGN_OR_RETURN(checkpoint->config_, ReadModelConfig(metadata));
  if (metadata.Has(kNameKey)) {
    ASSIGN_OR_RETURN(checkpoint->name_, metadata.GetString(kNameKey));
  }
  return checkpoint;
}

const CheckpointTensor* GgufCheckpoint::FindTensor(
    std::string_view name) const {
  const GgufTensor* tensor = file_->FindTensor(name);
  if (tensor == nullptr) return nullptr;
  return &tensors_[tensor - file_->tensors().data()];
}

absl::StatusOr<std::unique_ptr<Tokenizer>> GgufCheckpoint::LoadTokenizer()
    const {
  auto tokenizer = sparseserve::LoadTokenizer(file_->metadata());
  if (absl::IsNotFound(tokenizer.status())) {
    // Of a key: NOT_FOUND from here means that there is no file.
    return absl::InvalidArgumentError(tokenizer.status().message());
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> GgufCheckpoint::LoadChatTemplate()
    const {
  return sparseserve::LoadChatTemplate(file_->metadata());
}

}  // namespace sparseserve
