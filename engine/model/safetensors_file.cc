#include "engine/model/safetensors_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/model/safetensors_header.h"

namespace sparseserve {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors is read in place, and is little-endian");

constexpr uint64_t kLengthBytes = sizeof(uint64_t);
// As in the format's own library.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

}  // namespace

std::string SafetensorsTensor::ShapeText() const {
  return StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> file =
      Parse(mapping.bytes());
  if (!file.ok()) {
    return absl::Status(file.status().code(),
                        StrCat(path, ": ", file.status().message()));
  }
  (*file)->mapping_ = std::move(mapping);
  return file;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(
    absl::Span<const std::byte> bytes) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(bytes));
  RETURN_IF_ERROR(file->ParseAll());
  return file;
}

absl::Status SafetensorsFile::ParseAll() {
  if (bytes_.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        StrCat("the file has ", bytes_.size(), " bytes, fewer than the ",
               kLengthBytes, " of its header's length"));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes_.data(), kLengthBytes);
  const uint64_t available = bytes_.size() - kLengthBytes;
  if (length > available || length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        StrCat("not a safetensors file, or cut short: it claims a header of ",
               length, " bytes, but ",
               length > available ? StrCat("only ", available, " follow")
                                  : StrCat(kMaxHeaderBytes, " are the limit")));
  }
  const absl::Span<const std::byte> header =
      bytes_.subspan(kLengthBytes, length);
  ASSIGN_OR_RETURN(tensors_, ParseSafetensorsHeader(std::string_view(
                                 reinterpret_cast<const char*>(header.data()),
                                 header.size())));
  return PlaceTensors(bytes_.subspan(kLengthBytes + length));
}

absl::Status SafetensorsFile::PlaceTensors(absl::Span<const std::byte> data) {
  // Empty ones first where several begin at one place.
  std::sort(tensors_.begin(), tensors_.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
              return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
            });
  uint64_t placed = 0;
  const SafetensorsTensor* before = nullptr;
  for (SafetensorsTensor& tensor : tensors_) {
    if (tensor.end > data.size()) {
      return absl::InvalidArgumentError(
          StrCat(tensor.Title(), " ends at byte ", tensor.end,
                 " of the data section, which has ", data.size()));
    }
    if (tensor.begin < placed) {
      return absl::InvalidArgumentError(
          StrCat(before->Title(), " and ", tensor.Title(),
                 " overlap at offset ", tensor.begin));
    }
    if (tensor.begin > placed) {
      return absl::InvalidArgumentError(
          StrCat("bytes ", placed, " to ", tensor.begin,
                 " of the data section belong to no tensor"));
    }
    tensor.data = data.data() + tensor.begin;
    placed = tensor.end;
    before = &tensor;
  }
  if (placed != data.size()) {
    return absl::InvalidArgumentError(
        StrCat("bytes ", placed, " to ", data.size(),
               " of the data section belong to no tensor"));
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
