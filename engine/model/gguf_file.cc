#include "engine/model/gguf_file.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "absl/strings/str_join.h"
#include "engine/base/checked_math.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tensor/dtype.h"

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
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxNameBytes = 1024;
// The least bytes of a directory entry: name, one dimension, type, offset.
constexpr uint64_t kMinEntryBytes = (8 + 1) + (4 + 8) + 4 + 8;

// A type number of ggml, and our name for it if we read it.
struct TensorType {
  std::string_view name;
  std::optional<DType> dtype;
};

TensorType TensorTypeOf(uint32_t number) {
  switch (number) {
    case 0:
      return {"F32", DType::kF32};
    case 1:
      return {"F16", DType::kF16};
    case 2:
      return {"Q4_0", DType::kQ4_0};
    case 3:
      return {"Q4_1", DType::kQ4_1};
    case 8:
      return {"Q8_0", DType::kQ8_0};
    case 30:
      return {"BF16", DType::kBF16};
    default:
      break;
  }
  // Named only so that the error says what a user's file holds.
  constexpr std::pair<uint32_t, std::string_view> kOthers[] = {
      {6, "Q5_0"},    {7, "Q5_1"},     {9, "Q8_1"},    {10, "Q2_K"},
      {11, "Q3_K"},   {12, "Q4_K"},    {13, "Q5_K"},   {14, "Q6_K"},
      {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
      {19, "IQ1_S"},  {20, "IQ4_NL"},  {21, "IQ3_S"},  {22, "IQ2_S"},
      {23, "IQ4_XS"}, {24, "I8"},      {25, "I16"},    {26, "I32"},
      {27, "I64"},    {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},
      {35, "TQ2_0"},  {39, "MXFP4"}};
  for (const auto& [other, name] : kOthers) {
    if (other == number) return {name, std::nullopt};
  }
  return {"unknown", std::nullopt};
}

std::string TypeText(uint32_t number) {
  return StrCat(TensorTypeOf(number).name, " (type ", number, ")");
}

std::string TensorText(std::string_view name) {
  return StrCat("tensor ", Quoted(name));
}

std::string ShapeText(const GgufTensor& tensor) {
  return StrCat("[", absl::StrJoin(tensor.shape, ", "), "]");
}

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

// Reads dimensions whose product is a positive int64.
absl::Status ReadShape(GgufCursor& cursor, GgufTensor& tensor) {
  const std::string what = TensorText(tensor.name);
  ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Read<uint32_t>(what));
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    return absl::InvalidArgumentError(StrCat(what, " has ", dimensions,
                                             " dimensions, not within 1 and ",
                                             kMaxDimensions));
  }
  uint64_t product = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    ASSIGN_OR_RETURN(const uint64_t size, cursor.Read<uint64_t>(what));
    const std::optional<uint64_t> next = CheckedMultiply(product, size);
    if (size == 0 || !next.has_value() ||
        *next > std::numeric_limits<int64_t>::max()) {
      return absl::InvalidArgumentError(
          StrCat(what, " has ", size, " as dimension ", i,
                 ": its elements must number 1 to 2^63 - 1"));
    }
    product = *next;
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufTensor> ReadEntry(GgufCursor& cursor, uint64_t index) {
  const std::string what = StrCat("tensor ", index);
  GgufTensor tensor;
  ASSIGN_OR_RETURN(tensor.name, cursor.ReadString(what));
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(
        StrCat(what, " has a name of ", tensor.name.size(),
               " bytes, not within 1 and ", kMaxNameBytes));
  }
  RETURN_IF_ERROR(ReadShape(cursor, tensor));
  ASSIGN_OR_RETURN(tensor.type, cursor.Read<uint32_t>(TensorText(tensor.name)));
  tensor.dtype = TensorTypeOf(tensor.type).dtype;
  ASSIGN_OR_RETURN(tensor.offset,
                   cursor.Read<uint64_t>(TensorText(tensor.name)));
  return tensor;
}

// Bytes of a tensor of a type that we read.
absl::StatusOr<uint64_t> SizeOf(const GgufTensor& tensor) {
  const int64_t block = BlockElements(*tensor.dtype);
  if (tensor.shape[0] % block != 0) {
    return absl::InvalidArgumentError(
        StrCat(TensorText(tensor.name), " has rows of ", tensor.shape[0],
               " elements, not a multiple of the ", block, " in a block of ",
               DTypeName(*tensor.dtype)));
  }
  const std::optional<uint64_t> bytes =
      CheckedMultiply(tensor.elements() / block, BlockBytes(*tensor.dtype));
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError(StrCat(TensorText(tensor.name),
                                             " of shape ", ShapeText(tensor),
                                             " is larger than 2^64 bytes"));
  }
  return *bytes;
}

}  // namespace

int64_t GgufTensor::elements() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

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
  if (count > cursor.remaining() / kMinEntryBytes) {
    return absl::InvalidArgumentError(
        StrCat("the file claims ", count, " tensors, but only ",
               cursor.remaining(), " bytes are left"));
  }
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(GgufTensor tensor, ReadEntry(cursor, i));
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
      return absl::InvalidArgumentError(
          StrCat(TensorText(tensor.name), " occurs twice"));
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
          StrCat(TensorText(tensor.name), " begins at offset ", tensor.offset,
                 ", not a multiple of the alignment ", alignment));
    }
    if (tensor.dtype.has_value()) {
      ASSIGN_OR_RETURN(tensor.bytes, SizeOf(tensor));
    }
    if (tensor.offset > available || tensor.bytes > available - tensor.offset) {
      return absl::InvalidArgumentError(StrCat(
          TensorText(tensor.name), " takes ", tensor.bytes, " bytes at offset ",
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
          StrCat(TensorText(before.name), " and ", TensorText(after.name),
                 " overlap at offset ", after.offset));
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
    return absl::NotFoundError(StrCat("the file has no ", TensorText(name)));
  }
  if (!tensor->dtype.has_value()) {
    return absl::InvalidArgumentError(
        StrCat(TensorText(name), " is ", TypeText(tensor->type),
               "; read are F32, F16, BF16, Q8_0, Q4_0 and Q4_1"));
  }
  if (tensor->shape.size() != dimensions) {
    return absl::InvalidArgumentError(StrCat(TensorText(name), " has shape ",
                                             ShapeText(*tensor), ", not ",
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
