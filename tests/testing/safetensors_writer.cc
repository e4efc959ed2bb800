#include "tests/testing/safetensors_writer.h"

#include "absl/strings/str_join.h"
#include "engine/base/str_cat.h"
#include "tests/testing/gguf_writer.h"

namespace sparseserve::testing {

void SafetensorsWriter::Add(std::string_view name, DType dtype,
                            const std::vector<int64_t>& shape,
                            std::string_view data) {
  Add(name, DTypeName(dtype), shape, data);
}

void SafetensorsWriter::Add(std::string_view name, std::string_view type,
                            const std::vector<int64_t>& shape,
                            std::string_view data) {
  entries_ += StrCat(",\"", name, "\":{\"dtype\":\"", type, "\",\"shape\":[",
                     absl::StrJoin(shape, ","), "],\"data_offsets\":[",
                     data_.size(), ",", data_.size() + data.size(), "]}");
  data_ += data;
}

std::string SafetensorsWriter::Build() const {
  std::string header =
      StrCat(R"({"__metadata__":{"format":"pt"})", entries_, "}");
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return SafetensorsBytes(header, data_);
}

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  std::string bytes;
  AppendRaw<uint64_t>(bytes, header.size());
  bytes += header;
  bytes += data;
  return bytes;
}

}  // namespace sparseserve::testing
