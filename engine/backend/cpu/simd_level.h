#pragma once

// Which of the compiled SIMD paths a backend uses. The choice is a value held
// by each backend, not Highway's process-wide state, so that two backends in
// one process can differ.

#include <cstdint>
#include <string_view>

namespace sparseserve::cpu {

// In ascending order. kScalar is what the compiler's baseline gives.
enum class SimdLevel { kScalar, kSse4, kAvx2, kAvx512 };

std::string_view SimdLevelName(SimdLevel level);
// The best level that this CPU has and that is not above `cap`.
SimdLevel AvailableSimdLevel(SimdLevel cap);
// Highway's targets up to `level` that this CPU has.
int64_t HighwayTargets(SimdLevel level);

}  // namespace sparseserve::cpu
