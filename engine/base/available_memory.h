#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sparseserve {

// Memory that this process may still take without swapping: the least of what
// the system and the process's control group (version 2 or 1) leave free.
// 0 if the system does not say.
int64_t AvailableMemoryBytes();

// The value of `MemAvailable` in the text of /proc/meminfo, in bytes; negative
// if it is not there.
int64_t ParseMemAvailable(std::string_view meminfo);

// Room under the memory limit of the control group mounted at `root` (version 2
// or 1); the largest int64_t if it has none. Cached file contents count as
// room, as they do in MemAvailable: the group's use includes them.
int64_t GroupRoomBytes(const std::string& root);

}  // namespace sparseserve
