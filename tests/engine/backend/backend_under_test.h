#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/backend/create_backend.h"
#include "gtest/gtest.h"

namespace sparseserve {

// Names of the SIMD paths that this machine can run.
std::vector<std::string> AvailableSimdPaths();

// Those that a test of every path runs: all of them, but the widest alone under
// ThreadSanitizer, where a path takes minutes and all share their threads' work
// alike.
std::vector<std::string> SimdPathsToTest();

// Where prefill rows are rounded and multiplied on tiles; every other path is
// exact.
inline constexpr char kAmxPath[] = "avx512_amx";
// SimdPathsToTest(), with that one where this machine has it.
std::vector<std::string> AttentionPathsToTest();

// A backend on one of these paths.
std::unique_ptr<Backend> CreateBackendUnderTest(const std::string& path,
                                                int threads = 2);

// The same on the path that the parameter names.
class BackendTest : public ::testing::TestWithParam<std::string> {
 protected:
  BackendTest();
  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
};

}  // namespace sparseserve
