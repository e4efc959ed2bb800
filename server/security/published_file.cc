#include "server/security/published_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

bool WriteAll(int descriptor, std::string_view contents) {
  while (!contents.empty()) {
    const ssize_t written = write(descriptor, contents.data(), contents.size());
    if (written <= 0) return false;
    contents.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace

PublishedFile::~PublishedFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status PublishedFile::Publish(std::string_view contents) {
  const absl::Status failed =
      absl::ResourceExhaustedError("no memory file for checked contents");
  const int fresh = memfd_create("sparseserve", MFD_CLOEXEC);
  if (fresh < 0) return failed;
  ++version_;
  const timespec time = {static_cast<time_t>(version_), 0};
  const timespec times[] = {time, time};
  const bool is_ready =
      WriteAll(fresh, contents) && futimens(fresh, times) == 0;
  if (is_ready && descriptor_ < 0) {
    descriptor_ = fresh;
    return absl::OkStatus();
  }
  // The number stays and stands for the new file from one moment to the next.
  const bool is_swapped =
      is_ready && dup3(fresh, descriptor_, O_CLOEXEC) == descriptor_;
  close(fresh);
  return is_swapped ? absl::OkStatus() : failed;
}

std::string PublishedFile::path() const {
  return descriptor_ < 0 ? "" : StrCat("/proc/self/fd/", descriptor_);
}

}  // namespace sparseserve
