#pragma once

#include <cstdint>
#include <string_view>

namespace sparseserve {

// Memory that this process may still take without swapping: the least of what
// the system and the process's control group (version 2 or 1) leave free.
// 0 if the system does not say.
int64_t AvailableMemoryBytes();

// The value of `MemAvailable` in the text of /proc/meminfo, in bytes; negative
// if it is not there.
int64_t ParseMemAvailable(std::string_view meminfo);

}  // namespace sparseserve
