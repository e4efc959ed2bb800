#pragma once

// Broken invariants end the process; bad input never does (it gets a status).

namespace sparseserve::internal {
// Prints the failed condition with its place to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line,
                              const char* condition);
}  // namespace sparseserve::internal

#define SPARSESERVE_CHECK(condition) \
  (static_cast<bool>(condition)      \
       ? static_cast<void>(0)        \
       : ::sparseserve::internal::CheckFailed(__FILE__, __LINE__, #condition))

#ifdef NDEBUG
#define SPARSESERVE_DCHECK(condition) \
  static_cast<void>(sizeof(static_cast<bool>(condition)))
#else
#define SPARSESERVE_DCHECK(condition) SPARSESERVE_CHECK(condition)
#endif
