// Part of the tests that are said to run on one thread (../CMakeLists.txt):
// what all that starts threads calls there instead of the C library's function.

#include <pthread.h>

#include <cstdio>
#include <cstdlib>

extern "C" int pthread_create(pthread_t*, const pthread_attr_t*,
                              void* (*)(void*), void*) noexcept {
  std::fputs(
      "This test starts a thread, and ThreadSanitizer's build leaves it out: "
      "name it in `multi_threaded` in tests/CMakeLists.txt.\n",
      stderr);
  std::abort();
}
