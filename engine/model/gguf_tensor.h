#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/quoted.h"
#include "engine/base/str_cat.h"
#include "engine/model/gguf_cursor.h"
#include "engine/tensor/dtype.h"

namespace sparseserve {

// A tensor as a GGUF file's directory describes it.
struct GgufTensor {
  // The least bytes of an entry: name, one dimension, type, offset.
  static constexpr uint64_t kMinEntryBytes = (8 + 1) + (4 + 8) + 4 + 8;

  std::string_view name;
  uint32_t type = 0;           // ggml's number
  std::optional<DType> dtype;  // set if the type is one that we read
  std::vector<int64_t> shape;  // as in the file: fastest dimension first
  uint64_t offset = 0;         // from the beginning of the data section
  uint64_t bytes = 0;          // 0 if the type is not one that we read
  // Points into the file, with `bytes` there, once the file has placed it.
  const std::byte* data = nullptr;

  int64_t elements() const;
  // For messages: `tensor "output.weight"`, "Q2_K (type 10)", "[576, 49152]".
  std::string Title() const { return StrCat("tensor ", Quoted(name)); }
  std::string TypeText() const;
  std::string ShapeText() const;
};

// Reads entry number `index` of the directory. INVALID_ARGUMENT names the
// tensor and what is wrong: its name's length, its dimensions, rows that are
// not whole blocks, more bytes than can be counted. The elements of a tensor
// number 1 to 2^63 - 1.
absl::StatusOr<GgufTensor> ReadGgufTensor(GgufCursor& cursor, uint64_t index);

}  // namespace sparseserve
