#include "engine/model/gguf_file.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_join.h"
#include "engine/base/checked_math.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

static_assert(std::endian::native == std::endian::little,
              "GGUF is read in place, and is little-endian");

constexpr uint32_t kMagic = 0x46554747;             // "GGUF"
constexpr uint32_t kByteSwappedMagic = 0x47475546;  // "FUGG"
constexpr uint32_t kMinVersion = 2;
constexpr uint32_t kMaxVersion = 3;
constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMinAlignment = 8;
constexpr uint32_t kMaxAlignment = 1 << 16;

absl::Status CheckHeader(uint32_t magic, uint32_t version) {
  if (magic == kByteSwappedMagic ||
      (magic == kMagic && version != 0 && (version & 0xffff) == 0)) {
    return absl::InvalidArgumentError(
        "a big-endian GGUF file; only little-endian ones are read");
  }
  if (magic != kMagic) {
    return absl::InvalidArgumentError(
        "not a GGUF file: it does not begin with \"GGUF\"");
  }
  if (version < kMinVersion || version > kMaxVersion) {
    return absl::InvalidArgumentError(StrCat("GGUF version ", version,
                                             "; only versions ", kMinVersion,
                                             " to ", kMaxVersion, " are read"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> ReadAlignment(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "general.alignment";
  if (!metadata.Has(kKey)) return kDefaultAlignment;
  ASSIGN_OR_RETURN(const uint32_t alignment, metadata.GetUint32(kKey));
  if (!std::has_single_bit(alignment) || alignment < kMinAlignment ||
      alignment > kMaxAlignment) {
    return absl::InvalidArgumentError(
        StrCat(kKey, " is ", alignment, ", not a power of two within ",
               kMinAlignment, " and ", kMaxAlignment));
  }
  return alignment;
}

// "F32, F16, ...": for messages.
std::string ReadableTypes() {
  return absl::StrJoin(kAllDTypes, ", ", [](std::string* out, DType dtype) {
    out->append(DTypeName(dtype));
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(
    const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  absl::StatusOr<std::unique_ptr<GgufFile>> file = Parse(mapping.bytes());
  if (!file.ok()) {
    return absl::Status(file.status().code(),
                        StrCat(path, ": ", file.status().message()));
  }
  (*file)->mapping_ = std::move(mapping);
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(
    absl::Span<const std::byte> bytes) {
  std::unique_ptr<GgufFile> file(new GgufFile(bytes));
  RETURN_IF_ERROR(file->ParseAll());
  return file;
}

absl::Status GgufFile::ParseAll() {
  GgufCursor cursor(bytes_);
  ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>("the magic"));
  ASSIGN_OR_RETURN(const uint32_t version,
                   cursor.Read<uint32_t>("the version"));
  RETURN_IF_ERROR(CheckHeader(magic, version));
  ASSIGN_OR_RETURN(const uint64_t tensors,
                   cursor.Read<uint64_t>("the number of tensors"));
  ASSIGN_OR_RETURN(const uint64_t pairs,
                   cursor.Read<uint64_t>("the number of metadata pairs"));
  ASSIGN_OR_RETURN(metadata_, GgufMetadata::Parse(cursor, pairs));
  RETURN_IF_ERROR(ParseDirectory(cursor, tensors));
  if (tensors_.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(PlaceTensors(cursor.offset()));
  return CheckOverlaps();
}

absl::Status GgufFile::ParseDirectory(GgufCursor& cursor, uint64_t count) {
  if (count > cursor.remaining() / GgufTensor::kMinEntryBytes) {
    return absl::InvalidArgumentError(
        StrCat("the file claims ", count, " tensors, but only ",
               cursor.remaining(), " bytes are left"));
  }
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(GgufTensor tensor, ReadGgufTensor(cursor, i));
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
      return absl::InvalidArgumentError(
          StrCat(tensor.Title(), " occurs twice"));
    }
    tensors_.push_back(std::move(tensor));
  }
  return absl::OkStatus();
}

absl::Status GgufFile::PlaceTensors(uint64_t directory_end) {
  ASSIGN_OR_RETURN(const uint32_t alignment, ReadAlignment(metadata_));
  const std::optional<uint64_t> begin =
      CheckedAlignUp(directory_end, alignment);
  if (!begin.has_value() || *begin > bytes_.size()) {
    return absl::InvalidArgumentError(StrCat(
        "the file ends at ", bytes_.size(),
        " bytes, before its tensor data, which follows the directory's end at ",
        directory_end, " aligned to ", alignment));
  }
  const uint64_t available = bytes_.size() - *begin;
  for (GgufTensor& tensor : tensors_) {
    if (tensor.offset % alignment != 0) {
      return absl::InvalidArgumentError(
          StrCat(tensor.Title(), " begins at offset ", tensor.offset,
                 ", not a multiple of the alignment ", alignment));
    }
    if (tensor.offset > available || tensor.bytes > available - tensor.offset) {
      return absl::InvalidArgumentError(
          StrCat(tensor.Title(), " takes ", tensor.bytes, " bytes at offset ",
                 tensor.offset, ", but the data section has ", available));
    }
    tensor.data = bytes_.data() + *begin + tensor.offset;
  }
  return absl::OkStatus();
}

absl::Status GgufFile::CheckOverlaps() const {
  std::vector<const GgufTensor*> ordered;
  for (const GgufTensor& tensor : tensors_) ordered.push_back(&tensor);
  std::sort(ordered.begin(), ordered.end(),
            [](const GgufTensor* a, const GgufTensor* b) {
              return a->offset < b->offset;
            });
  for (size_t i = 1; i < ordered.size(); ++i) {
    const GgufTensor& before = *ordered[i - 1];
    const GgufTensor& after = *ordered[i];
    // Also catches two of unread types, whose sizes are not known.
    if (after.offset == before.offset ||
        after.offset - before.offset < before.bytes) {
      return absl::InvalidArgumentError(
          StrCat(before.Title(), " and ", after.Title(), " overlap at offset ",
                 after.offset));
    }
  }
  return absl::OkStatus();
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

absl::StatusOr<const GgufTensor*> GgufFile::FindReadable(
    std::string_view name, size_t dimensions) const {
  const GgufTensor* tensor = FindTensor(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(StrCat("the file has no tensor ", Quoted(name)));
  }
  if (!tensor->dtype.has_value()) {
    return absl::InvalidArgumentError(StrCat(tensor->Title(), " is ",
                                             tensor->TypeText(), "; read are ",
                                             ReadableTypes()));
  }
  if (tensor->shape.size() != dimensions) {
    return absl::InvalidArgumentError(StrCat(tensor->Title(), " has shape ",
                                             tensor->ShapeText(), ", not ",
                                             dimensions, " dimensions"));
  }
  return tensor;
}

absl::StatusOr<StoredMatrix> GgufFile::GetMatrix(std::string_view name) const {
  ASSIGN_OR_RETURN(const GgufTensor* tensor, FindReadable(name, 2));
  return StoredMatrix{tensor->data, *tensor->dtype, tensor->shape[1],
                      tensor->shape[0]};
}

absl::StatusOr<StoredMatrix> GgufFile::GetVector(std::string_view name) const {
  ASSIGN_OR_RETURN(const GgufTensor* tensor, FindReadable(name, 1));
  return StoredMatrix{tensor->data, *tensor->dtype, 1, tensor->shape[0]};
}

}  // namespace sparseserve
