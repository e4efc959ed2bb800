#include "engine/base/available_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

namespace sparseserve {
namespace {

std::string ReadText(const char* path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The number at the beginning of `text`, after blanks; negative if none.
int64_t LeadingNumber(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  int64_t value = 0;
  const auto parsed =
      std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() ? value : -1;
}

// Room under a control group's limit, or no bound if there is none ("max", or
// a file that is missing).
int64_t GroupRoom(const char* limit_path, const char* used_path) {
  const int64_t limit = LeadingNumber(ReadText(limit_path));
  const int64_t used = LeadingNumber(ReadText(used_path));
  if (limit < 0 || used < 0) return std::numeric_limits<int64_t>::max();
  return std::max<int64_t>(limit - used, 0);
}

}  // namespace

int64_t ParseMemAvailable(std::string_view meminfo) {
  constexpr std::string_view kKey = "MemAvailable:";
  const size_t at = meminfo.find(kKey);
  if (at == std::string_view::npos) return -1;
  const int64_t kibibytes = LeadingNumber(meminfo.substr(at + kKey.size()));
  return kibibytes < 0 ? -1 : kibibytes * 1024;
}

int64_t AvailableMemoryBytes() {
  const int64_t system = ParseMemAvailable(ReadText("/proc/meminfo"));
  if (system < 0) return 0;
  return std::min(
      {system,
       GroupRoom("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
       GroupRoom("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                 "/sys/fs/cgroup/memory/memory.usage_in_bytes")});
}

}  // namespace sparseserve
