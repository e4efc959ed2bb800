#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sparseserve {

// A file mapped read-only into memory; move-only, unmapped when destroyed.
// Pages are shared with every other process that maps the file, and are read
// when first touched.
//
// The file must keep its length while it is mapped: touching a page that a
// truncation took away ends the process (SIGBUS). Replace a model by renaming
// another file over it, never by writing into it.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or another code by errno; INVALID_ARGUMENT if
  // `path` is not a regular file or is empty. All name the path.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  absl::Span<const std::byte> bytes() const { return bytes_; }

  // Lets go of the pages that were touched so far: they no longer count as
  // memory of this process, and are mapped again when touched again, mostly
  // from the system's cache. Advice; any thread may read meanwhile.
  void ForgetPages() const;

 private:
  explicit MappedFile(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  absl::Span<const std::byte> bytes_;
};

}  // namespace sparseserve
