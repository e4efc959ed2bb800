#include "engine/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace sparseserve::internal {

void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: invariant broken: %s\n", file, line, condition);
  std::abort();
}

}  // namespace sparseserve::internal
