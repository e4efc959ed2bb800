#include "tests/testing/gguf_writer.h"

#include <type_traits>

#include "engine/base/check.h"

namespace sparseserve::testing {
namespace {

constexpr uint32_t kStringType = 8;
constexpr uint32_t kArrayType = 9;

template <typename T>
uint32_t TypeNumber() {
  if constexpr (std::is_same_v<T, uint8_t>) return 0;
  if constexpr (std::is_same_v<T, int8_t>) return 1;
  if constexpr (std::is_same_v<T, uint16_t>) return 2;
  if constexpr (std::is_same_v<T, int16_t>) return 3;
  if constexpr (std::is_same_v<T, uint32_t>) return 4;
  if constexpr (std::is_same_v<T, int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, std::string>) return kStringType;
  if constexpr (std::is_same_v<T, uint64_t>) return 10;
  if constexpr (std::is_same_v<T, int64_t>) return 11;
  if constexpr (std::is_same_v<T, double>) return 12;
}

uint32_t TensorTypeNumber(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ5_0:
      return 6;
    case DType::kQ5_1:
      return 7;
    case DType::kQ8_0:
      return 8;
    case DType::kQ4_K:
      return 12;
    case DType::kQ5_K:
      return 13;
    case DType::kQ6_K:
      return 14;
    case DType::kBF16:
      return 30;
  }
  SPARSESERVE_CHECK(false);
}

struct ValueAppender {
  std::string& bytes;

  template <typename T>
  void operator()(const T& value) const {
    AppendRaw(bytes, TypeNumber<T>());
    Payload(value);
  }
  template <typename T>
  void operator()(const std::vector<T>& values) const {
    AppendRaw(bytes, kArrayType);
    AppendRaw(bytes, TypeNumber<T>());
    AppendRaw<uint64_t>(bytes, values.size());
    for (const T& value : values) Payload(value);
  }

  template <typename T>
  void Payload(const T& value) const {
    AppendRaw(bytes, value);
  }
  void Payload(const std::string& value) const {
    AppendGgufString(bytes, value);
  }
};

void Pad(std::string& bytes, uint32_t alignment) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
}

}  // namespace

void AppendGgufString(std::string& bytes, std::string_view text) {
  AppendRaw<uint64_t>(bytes, text.size());
  bytes.append(text);
}

GgufWriter::GgufWriter(uint32_t alignment) : alignment_(alignment) {
  if (alignment != 32) Add("general.alignment", alignment);
}

void GgufWriter::Add(std::string_view key, const Value& value) {
  AppendGgufString(metadata_, key);
  std::visit(ValueAppender{metadata_}, value);
  ++pairs_;
}

void GgufWriter::AddTensor(std::string_view name, DType dtype,
                           const std::vector<uint64_t>& shape,
                           std::string_view data) {
  uint64_t elements = 1;
  for (const uint64_t size : shape) elements *= size;
  SPARSESERVE_CHECK(data.size() ==
                    elements / BlockElements(dtype) * BlockBytes(dtype));
  AppendGgufString(directory_, name);
  AppendRaw<uint32_t>(directory_, shape.size());
  for (const uint64_t size : shape) AppendRaw(directory_, size);
  AppendRaw(directory_, TensorTypeNumber(dtype));
  AppendRaw<uint64_t>(directory_, data_.size());
  data_.append(data);
  Pad(data_, alignment_);
  ++tensors_;
}

void GgufWriter::AddFloats(std::string_view name, uint64_t rows,
                           uint64_t columns, absl::Span<const float> values) {
  std::vector<uint64_t> shape = {columns};
  if (rows > 0) shape.push_back(rows);
  AddTensor(name, DType::kF32, shape,
            std::string_view(reinterpret_cast<const char*>(values.data()),
                             values.size() * sizeof(float)));
}

std::string GgufWriter::Build() const {
  std::string file = "GGUF";
  AppendRaw<uint32_t>(file, 3);
  AppendRaw(file, tensors_);
  AppendRaw(file, pairs_);
  file += metadata_;
  file += directory_;
  Pad(file, alignment_);
  file += data_;
  return file;
}

}  // namespace sparseserve::testing
