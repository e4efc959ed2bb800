#include "engine/base/available_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

namespace sparseserve {
namespace {

std::string ReadText(const std::string& path) {
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

// The number behind "key " at the beginning of a line; 0 if it is not there.
int64_t LineNumber(std::string_view text, std::string_view key) {
  size_t line = 0;
  while (line < text.size()) {
    const std::string_view rest = text.substr(line);
    if (rest.substr(0, key.size()) == key &&
        rest.substr(key.size(), 1) == " ") {
      return std::max<int64_t>(LeadingNumber(rest.substr(key.size())), 0);
    }
    const size_t end = rest.find('\n');
    if (end == rest.npos) break;
    line += end + 1;
  }
  return 0;
}

// Names of one version's files and of the keys in its statistics.
struct GroupFiles {
  const char* limit;
  const char* used;
  const char* statistics;
  const char* active_cache;
  const char* inactive_cache;
};

constexpr GroupFiles kVersion2 = {"/memory.max", "/memory.current",
                                  "/memory.stat", "active_file",
                                  "inactive_file"};
constexpr GroupFiles kVersion1 = {
    "/memory/memory.limit_in_bytes", "/memory/memory.usage_in_bytes",
    "/memory/memory.stat", "total_active_file", "total_inactive_file"};

int64_t Room(const std::string& root, const GroupFiles& files) {
  const int64_t limit = LeadingNumber(ReadText(root + files.limit));
  const int64_t used = LeadingNumber(ReadText(root + files.used));
  // "max", or a file that is missing.
  if (limit < 0 || used < 0) return std::numeric_limits<int64_t>::max();
  const std::string statistics = ReadText(root + files.statistics);
  const int64_t cached =
      std::min(used, LineNumber(statistics, files.active_cache) +
                         LineNumber(statistics, files.inactive_cache));
  return std::max<int64_t>(limit - (used - cached), 0);
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
  return std::min(system, GroupRoomBytes("/sys/fs/cgroup"));
}

int64_t GroupRoomBytes(const std::string& root) {
  return std::min(Room(root, kVersion2), Room(root, kVersion1));
}

}  // namespace sparseserve
