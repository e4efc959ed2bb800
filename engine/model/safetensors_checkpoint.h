#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/hf_config.h"
#include "engine/model/safetensors_directory.h"

namespace sparseserve {

// A checkpoint in a directory as Hugging Face's libraries write it:
// config.json, safetensors files, tokenizer.json and their companions.
class SafetensorsCheckpoint final : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsCheckpoint>> Open(
      const std::string& path);

  const ModelConfig& config() const override { return config_.model; }
  // The directory's.
  std::string name() const override;
  int64_t file_bytes() const override { return weights_.file_bytes(); }
  std::vector<absl::Span<const std::byte>> contents() const override {
    return weights_.contents();
  }
  void ForgetPages() const override { weights_.ForgetPages(); }
  const std::vector<CheckpointTensor>& tensors() const override {
    return tensors_;
  }
  const CheckpointTensor* FindTensor(std::string_view name) const override;
  std::string StoredName(std::string_view name) const override;
  absl::StatusOr<StoredMatrix> GetMatrix(std::string_view name) const override;
  absl::StatusOr<StoredMatrix> GetVector(std::string_view name) const override;
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override;
  absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate()
      const override;

 private:
  SafetensorsCheckpoint(std::string path, HfConfig config,
                        SafetensorsDirectory weights);

  absl::Status NameTensors();
  absl::StatusOr<const SafetensorsTensor*> FindReadable(
      std::string_view name, size_t dimensions) const;

  const std::string path_;
  const HfConfig config_;
  const SafetensorsDirectory weights_;
  std::vector<CheckpointTensor> tensors_;
  std::vector<const SafetensorsTensor*> stored_;      // [tensors_]
  std::map<std::string, size_t, std::less<>> index_;  // of tensors_, by name
};

}  // namespace sparseserve
