#pragma once

// For tests of how much memory something asks for. Include in one file of a
// program: it replaces the program's operator new.

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace sparseserve::testing {
// The largest single request for memory since it was last set to 0.
inline std::atomic<size_t> largest_request = 0;
}  // namespace sparseserve::testing

// Not inlined: the compiler would miss that new and delete belong together.
[[gnu::noinline]] void* operator new(size_t bytes) {
  std::atomic<size_t>& largest = sparseserve::testing::largest_request;
  size_t seen = largest.load();
  while (bytes > seen && !largest.compare_exchange_weak(seen, bytes)) {
  }
  void* memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
