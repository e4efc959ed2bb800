#include "engine/model/gguf_tensor.h"

#include <limits>
#include <utility>

#include "absl/strings/str_join.h"
#include "engine/base/checked_math.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxNameBytes = 1024;
// A type number of ggml, and our name for it if we read it.
struct TensorType {
  std::string_view name;
  std::optional<DType> dtype;
};

TensorType TensorTypeOf(uint32_t number) {
  constexpr std::pair<uint32_t, DType> kReadable[] = {
      {0, DType::kF32},   {1, DType::kF16},   {2, DType::kQ4_0},
      {3, DType::kQ4_1},  {6, DType::kQ5_0},  {7, DType::kQ5_1},
      {8, DType::kQ8_0},  {12, DType::kQ4_K}, {13, DType::kQ5_K},
      {14, DType::kQ6_K}, {30, DType::kBF16}};
  for (const auto& [readable, dtype] : kReadable) {
    if (readable == number) return {DTypeName(dtype), dtype};
  }
  // Named only so that the error says what a user's file holds.
  constexpr std::pair<uint32_t, std::string_view> kOthers[] = {
      {9, "Q8_1"},     {10, "Q2_K"},   {11, "Q3_K"},    {15, "Q8_K"},
      {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
      {20, "IQ4_NL"},  {21, "IQ3_S"},  {22, "IQ2_S"},   {23, "IQ4_XS"},
      {24, "I8"},      {25, "I16"},    {26, "I32"},     {27, "I64"},
      {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},   {35, "TQ2_0"},
      {39, "MXFP4"},   {40, "NVFP4"},  {41, "Q1_0"}};
  for (const auto& [other, name] : kOthers) {
    if (other == number) return {name, std::nullopt};
  }
  return {"unknown", std::nullopt};
}

// Reads dimensions whose product is a positive int64.
absl::Status ReadShape(GgufCursor& cursor, GgufTensor& tensor) {
  const std::string what = tensor.Title();
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

// Bytes of a tensor of a type that we read.
absl::StatusOr<uint64_t> SizeOf(const GgufTensor& tensor) {
  const int64_t block = BlockElements(*tensor.dtype);
  if (tensor.shape[0] % block != 0) {
    return absl::InvalidArgumentError(
        StrCat(tensor.Title(), " has rows of ", tensor.shape[0],
               " elements, not a multiple of the ", block, " in a block of ",
               DTypeName(*tensor.dtype)));
  }
  const std::optional<uint64_t> bytes =
      CheckedMultiply(tensor.elements() / block, BlockBytes(*tensor.dtype));
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError(StrCat(tensor.Title(), " of shape ",
                                             tensor.ShapeText(),
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

std::string GgufTensor::TypeText() const {
  return StrCat(TensorTypeOf(type).name, " (type ", type, ")");
}

std::string GgufTensor::ShapeText() const {
  return StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<GgufTensor> ReadGgufTensor(GgufCursor& cursor, uint64_t index) {
  const std::string what = StrCat("tensor ", index);
  GgufTensor tensor;
  ASSIGN_OR_RETURN(tensor.name, cursor.ReadString(what));
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(
        StrCat(what, " has a name of ", tensor.name.size(),
               " bytes, not within 1 and ", kMaxNameBytes));
  }
  RETURN_IF_ERROR(ReadShape(cursor, tensor));
  ASSIGN_OR_RETURN(tensor.type, cursor.Read<uint32_t>(tensor.Title()));
  tensor.dtype = TensorTypeOf(tensor.type).dtype;
  ASSIGN_OR_RETURN(tensor.offset, cursor.Read<uint64_t>(tensor.Title()));
  if (tensor.dtype.has_value()) {
    ASSIGN_OR_RETURN(tensor.bytes, SizeOf(tensor));
  }
  return tensor;
}

}  // namespace sparseserve
