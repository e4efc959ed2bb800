#include "tests/testing/default_model.h"

#include <cstdlib>

namespace sparseserve::testing {
namespace {

// Empty if the variable is not set.
std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string DefaultModelPath() {
  if (const std::string path = Environment("SPARSESERVE_MODEL");
      !path.empty()) {
    return path;
  }
  std::string cache = Environment("XDG_CACHE_HOME");
  if (cache.empty()) cache = Environment("HOME") + "/.cache";
  return cache + "/sparseserve/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace sparseserve::testing
