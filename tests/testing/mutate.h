#pragma once

#include <random>
#include <string>

namespace sparseserve::testing {

// Changes, cuts, removes or repeats bytes of a file at one to four random
// places.
std::string Mutate(const std::string& original, std::mt19937& random);

}  // namespace sparseserve::testing
