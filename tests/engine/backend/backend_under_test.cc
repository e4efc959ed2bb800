#include "tests/engine/backend/backend_under_test.h"

namespace sparseserve {

std::unique_ptr<Backend> CreateBackendUnderTest(const std::string& path,
                                                int threads) {
  if (path == kAmxPath) {
    return CreateBackend({.threads = threads, .compute_dtype = "bf16"}).value();
  }
  return CreateBackend(
             {.threads = threads, .compute_dtype = "f32", .simd = path})
      .value();
}

std::vector<std::string> AvailableSimdPaths() {
  std::vector<std::string> paths;
  for (const char* path : {"scalar", "sse4", "avx2", "avx512"}) {
    if (CreateBackendUnderTest(path)->device().simd == path)
      paths.push_back(path);
  }
  return paths;
}

std::vector<std::string> SimdPathsToTest() {
  const std::vector<std::string> paths = AvailableSimdPaths();
#ifdef SPARSESERVE_TEST_WIDEST_PATH_ONLY
  return {paths.back()};
#else
  return paths;
#endif
}

std::vector<std::string> AttentionPathsToTest() {
  std::vector<std::string> paths = SimdPathsToTest();
  if (CreateBackendUnderTest(kAmxPath)->device().simd == kAmxPath)
    paths.push_back(kAmxPath);
  return paths;
}

BackendTest::BackendTest() : backend_(CreateBackendUnderTest(GetParam())) {}

}  // namespace sparseserve
