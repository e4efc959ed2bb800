#include "engine/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// Open for as long as mapping takes: the mapping outlives the descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int value) : value_(value) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (value_ >= 0) close(value_);
  }
  int value() const { return value_; }

 private:
  int value_;
};

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO by mistake must not hang.
  const FileDescriptor file(
      open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.value() < 0) {
    return absl::ErrnoToStatus(errno, StrCat("cannot open ", path));
  }
  struct stat status;
  if (fstat(file.value(), &status) != 0) {
    return absl::ErrnoToStatus(errno, StrCat("cannot stat ", path));
  }
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(StrCat(path, " is not a regular file"));
  }
  if (status.st_size == 0) {
    return absl::InvalidArgumentError(StrCat(path, " is empty"));
  }
  const size_t size = static_cast<size_t>(status.st_size);
  void* address =
      mmap(nullptr, size, PROT_READ, MAP_SHARED, file.value(), /*offset=*/0);
  if (address == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, StrCat("cannot map ", path));
  }
  // Loading reads every weight that gets a copy, and steps the others: begin
  // reading ahead now. Advice only, so its result does not matter.
  madvise(address, size, MADV_WILLNEED);
  return MappedFile(
      absl::MakeConstSpan(static_cast<const std::byte*>(address), size));
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) {
    munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

void MappedFile::ForgetPages() const {
  if (bytes_.empty()) return;
  madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

}  // namespace sparseserve
