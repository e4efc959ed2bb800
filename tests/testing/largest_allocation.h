#pragma once

#include <cstddef>

namespace sparseserve::testing {

// Linking sparseserve_allocation_probe replaces the program's operator new by
// one that remembers its largest request; any thread may allocate.

// Forgets what was requested so far.
void ResetLargestAllocation();
// Bytes of the largest single request since.
size_t LargestAllocation();

}  // namespace sparseserve::testing
