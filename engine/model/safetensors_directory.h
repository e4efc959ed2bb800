#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/safetensors_file.h"

namespace sparseserve {

// The weights in a directory: model.safetensors, or without it the shards that
// model.safetensors.index.json names. Immutable; any thread may call it.
class SafetensorsDirectory {
 public:
  // INVALID_ARGUMENT if there is neither file, and for an index that names a
  // file outside the directory or one that is not there, puts a tensor where
  // it is not, or leaves one out. All that opening the files gives.
  static absl::StatusOr<SafetensorsDirectory> Open(const std::string& path);

  // Of all files; no name occurs twice.
  absl::Span<const SafetensorsTensor* const> tensors() const {
    return tensors_;
  }
  int64_t file_bytes() const;
  // Of every file, by the first of its tensors' names.
  std::vector<absl::Span<const std::byte>> contents() const;
  // MappedFile::ForgetPages() of every file.
  void ForgetPages() const;

 private:
  absl::Status OpenShards(const std::string& path,
                          const std::string& index_path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<const SafetensorsTensor*> tensors_;  // into the files
};

}  // namespace sparseserve
