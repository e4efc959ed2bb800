#pragma once

#include <cstddef>

namespace sparseserve::testing {

// The largest single request for memory, of any thread, since ForgetRequests().
// A program that calls these has its operator new replaced by one that looks;
// under ThreadSanitizer a hook looks, at malloc too.
size_t LargestRequest();
void ForgetRequests();

}  // namespace sparseserve::testing
