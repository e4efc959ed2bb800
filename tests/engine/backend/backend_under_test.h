#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/backend/create_backend.h"
#include "gtest/gtest.h"

namespace sparseserve {

// Names of the SIMD paths that this machine can run.
std::vector<std::string> AvailableSimdPaths();

// A backend of two threads on the SIMD path that the parameter names.
class BackendTest : public testing::TestWithParam<std::string> {
 protected:
  BackendTest();
  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
};

}  // namespace sparseserve
