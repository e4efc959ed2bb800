#pragma once

#include <string>

namespace sparseserve::testing {

// Where the default model's file lies: what the environment variable
// SPARSESERVE_MODEL says, else in the user's cache.
std::string DefaultModelPath();

}  // namespace sparseserve::testing
