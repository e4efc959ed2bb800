#include <sanitizer/allocator_interface.h>

#include <atomic>

#include "tests/testing/largest_request.h"

// For ThreadSanitizer, whose runtime in clang owns new and delete.

namespace sparseserve::testing {
namespace {

std::atomic<size_t> largest_request = 0;

void SeeRequest(const volatile void*, size_t bytes) {
  size_t seen = largest_request.load();
  while (bytes > seen && !largest_request.compare_exchange_weak(seen, bytes)) {
  }
}
void SeeFree(const volatile void*) {}

const bool is_installed =
    __sanitizer_install_malloc_and_free_hooks(SeeRequest, SeeFree) > 0;

}  // namespace

// Without the hook nothing would be seen: better too much than too little.
size_t LargestRequest() { return is_installed ? largest_request.load() : -1; }
void ForgetRequests() { largest_request = 0; }

}  // namespace sparseserve::testing
