#pragma once

#include <string>

namespace sparseserve {

// Cores that this process may use at once: the least of its affinity and its
// control group's quota of CPU time. At least 1.
int AvailableCores();

// Cores that the quota of the control group mounted at `root` (version 2 or 1)
// pays for, rounded up; 0 if it has no quota.
int QuotaCores(const std::string& root);

}  // namespace sparseserve
