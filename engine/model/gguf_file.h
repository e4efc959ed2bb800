#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/gguf_metadata.h"
#include "engine/model/gguf_tensor.h"
#include "engine/model/mapped_file.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve {

// A GGUF model file, versions 2 and 3, little-endian. Everything that the
// file claims (lengths, counts, shapes, offsets) is checked when it is opened,
// before it is used or memory is taken for it; the values of weights are not
// looked at. Views, and the metadata's strings, are into the file and valid for
// the life of this object. Immutable; any thread may call it.
class GgufFile {
 public:
  // Maps the file (see MappedFile for what may not happen to it meanwhile).
  // NOT_FOUND if there is none; INVALID_ARGUMENT names the path and what is
  // wrong inside.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(
      const std::string& path);
  // Likewise over borrowed bytes, which must outlive the result.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(
      absl::Span<const std::byte> bytes);

  const GgufMetadata& metadata() const { return metadata_; }
  // In the order of the file.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  int64_t file_bytes() const { return static_cast<int64_t>(bytes_.size()); }
  absl::Span<const std::byte> contents() const { return bytes_; }
  // MappedFile::ForgetPages() of a mapped file.
  void ForgetPages() const {
    if (mapping_.has_value()) mapping_->ForgetPages();
  }

  // Null if there is no such tensor.
  const GgufTensor* FindTensor(std::string_view name) const;
  // A two-dimensional tensor as [shape[1] rows, shape[0] columns]. NOT_FOUND
  // names a missing tensor; INVALID_ARGUMENT names the tensor and its type if
  // that is not one that we read, or its shape if it has not two dimensions.
  absl::StatusOr<StoredMatrix> GetMatrix(std::string_view name) const;
  // Likewise a one-dimensional tensor, as one row.
  absl::StatusOr<StoredMatrix> GetVector(std::string_view name) const;

 private:
  explicit GgufFile(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  absl::Status ParseAll();
  absl::Status ParseDirectory(GgufCursor& cursor, uint64_t count);
  absl::Status PlaceTensors(uint64_t directory_end);
  absl::Status CheckOverlaps() const;
  absl::StatusOr<const GgufTensor*> FindReadable(std::string_view name,
                                                 size_t dimensions) const;

  std::optional<MappedFile> mapping_;  // if opened by path
  absl::Span<const std::byte> bytes_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<std::string_view, size_t> tensor_index_;
};

}  // namespace sparseserve
