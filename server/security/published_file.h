#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sparseserve {

// A file in memory whose contents are replaced all at once: whoever opens
// path() reads one version or the next, never a mixture. For libraries that
// watch a path, so that they see checked contents only. Needs no writable file
// system. Not thread-safe; others may open the path at any time.
class PublishedFile {
 public:
  // RESOURCE_EXHAUSTED if the kernel gives no descriptor or memory.
  absl::Status Publish(std::string_view contents);
  PublishedFile() = default;
  ~PublishedFile();
  PublishedFile(const PublishedFile&) = delete;
  PublishedFile& operator=(const PublishedFile&) = delete;

  // Of this process alone; empty before the first Publish(), then always the
  // same.
  std::string path() const;

 private:
  int descriptor_ = -1;
  // Versions differ in their modification times, by whole seconds: what some
  // libraries tell them apart by.
  int64_t version_ = 0;
};

}  // namespace sparseserve
