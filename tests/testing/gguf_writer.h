#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "engine/tensor/dtype.h"

namespace sparseserve::testing {

// Builds small GGUF files (version 3, little-endian) in memory: what tests
// feed to the reader, and random models too small to be worth a download.
class GgufWriter {
 public:
  // The alternative chosen is the type in the file.
  using Value = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t,
                             int32_t, float, bool, std::string, uint64_t,
                             int64_t, double, std::vector<std::string>,
                             std::vector<int32_t>, std::vector<float>>;

  explicit GgufWriter(uint32_t alignment = 32);

  void Add(std::string_view key, const Value& value);
  // `shape` has the fastest dimension first; `data` is in the stored form.
  void AddTensor(std::string_view name, DType dtype,
                 const std::vector<uint64_t>& shape, std::string_view data);
  // An F32 tensor: a vector if `rows` is 0, else a row-major matrix.
  void AddFloats(std::string_view name, uint64_t rows, uint64_t columns,
                 absl::Span<const float> values);

  // The bytes of the file.
  std::string Build() const;

 private:
  const uint32_t alignment_;
  uint64_t pairs_ = 0;
  uint64_t tensors_ = 0;
  std::string metadata_;
  std::string directory_;
  std::string data_;
};

// Little-endian bytes of a number, for those who write a file by hand.
template <typename T>
void AppendRaw(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}
// A GGUF string: its length in 64 bits, then its bytes.
void AppendGgufString(std::string& bytes, std::string_view text);

}  // namespace sparseserve::testing
