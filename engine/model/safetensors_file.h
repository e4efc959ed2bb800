#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/quoted.h"
#include "engine/base/str_cat.h"
#include "engine/model/mapped_file.h"
#include "engine/tensor/dtype.h"

namespace sparseserve {

// A tensor as a safetensors file's header describes it.
struct SafetensorsTensor {
  std::string name;
  std::string type;            // as in the file: "BF16"
  std::optional<DType> dtype;  // set if the type is one that we read
  std::vector<int64_t> shape;  // as in the file: slowest dimension first
  // The bytes [begin, end) of the data section.
  uint64_t begin = 0;
  uint64_t end = 0;
  const std::byte* data = nullptr;  // of `begin`, in the file

  // For messages: `tensor "lm_head.weight"`, "[49152, 576]".
  std::string Title() const { return StrCat("tensor ", Quoted(name)); }
  std::string ShapeText() const;
};

// A safetensors file: the length of its header, the header (a JSON object from
// tensor names to type, shape and place), the data section. Everything that the
// header claims is checked when the file is opened, before it is used or memory
// is taken for it; the values of weights are not looked at. The header's memory
// is a small multiple of its size, which is bounded by the file's. Views are
// into the file and valid for the life of this object. Immutable; any thread
// may call it.
class SafetensorsFile {
 public:
  // Maps the file (see MappedFile for what may not happen to it meanwhile).
  // NOT_FOUND if there is none; INVALID_ARGUMENT names the path and what is
  // wrong inside.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(
      const std::string& path);
  // Likewise over borrowed bytes, which must outlive the result.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(
      absl::Span<const std::byte> bytes);

  // In the order of the data. Together they fill the data section, each byte
  // once.
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  int64_t file_bytes() const { return static_cast<int64_t>(bytes_.size()); }
  absl::Span<const std::byte> contents() const { return bytes_; }
  // MappedFile::ForgetPages() of a mapped file.
  void ForgetPages() const {
    if (mapping_.has_value()) mapping_->ForgetPages();
  }

 private:
  explicit SafetensorsFile(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  absl::Status ParseAll();
  absl::Status PlaceTensors(absl::Span<const std::byte> data);

  std::optional<MappedFile> mapping_;  // if opened by path
  absl::Span<const std::byte> bytes_;
  std::vector<SafetensorsTensor> tensors_;
};

}  // namespace sparseserve
