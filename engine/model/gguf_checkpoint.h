#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/gguf_file.h"

namespace sparseserve {

// A checkpoint that is one GGUF file.
class GgufCheckpoint final : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<GgufCheckpoint>> Open(
      const std::string& path);
  static absl::StatusOr<std::unique_ptr<GgufCheckpoint>> FromFile(
      std::unique_ptr<GgufFile> file);

  const GgufFile& file() const { return *file_; }

  const ModelConfig& config() const override { return config_; }
  std::string name() const override { return name_; }
  int64_t file_bytes() const override { return file_->file_bytes(); }
  std::vector<absl::Span<const std::byte>> contents() const override {
    return {file_->contents()};
  }
  void ForgetPages() const override { file_->ForgetPages(); }
  const std::vector<CheckpointTensor>& tensors() const override {
    return tensors_;
  }
  const CheckpointTensor* FindTensor(std::string_view name) const override;
  std::string StoredName(std::string_view name) const override {
    return std::string(name);
  }
  absl::StatusOr<StoredMatrix> GetMatrix(std::string_view name) const override {
    return file_->GetMatrix(name);
  }
  absl::StatusOr<StoredMatrix> GetVector(std::string_view name) const override {
    return file_->GetVector(name);
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override;
  absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate()
      const override;

 private:
  explicit GgufCheckpoint(std::unique_ptr<GgufFile> file);

  const std::unique_ptr<GgufFile> file_;
  std::vector<CheckpointTensor> tensors_;  // in the order of the file
  ModelConfig config_;
  std::string name_;
};

}  // namespace sparseserve
