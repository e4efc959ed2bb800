#include "engine/backend/cpu/simd_level.h"

#include "hwy/highway.h"

namespace sparseserve::cpu {
namespace {

// The fallbacks come below every x86 target; one of them is always compiled.
constexpr int64_t kScalarTargets = HWY_SCALAR | HWY_EMU128;

int64_t TargetsAtMost(SimdLevel level) {
  switch (level) {
    case SimdLevel::kScalar:
      return kScalarTargets;
    case SimdLevel::kSse4:
      return kScalarTargets | HWY_SSE4;
    case SimdLevel::kAvx2:
      return kScalarTargets | HWY_SSE4 | HWY_AVX2;
    case SimdLevel::kAvx512:
      return kScalarTargets | HWY_SSE4 | HWY_AVX2 | HWY_AVX3;
  }
  return kScalarTargets;
}

}  // namespace

std::string_view SimdLevelName(SimdLevel level) {
  switch (level) {
    case SimdLevel::kScalar:
      return "scalar";
    case SimdLevel::kSse4:
      return "sse4";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kAvx512:
      return "avx512";
  }
  return "unknown";
}

int64_t HighwayTargets(SimdLevel level) {
  return hwy::SupportedTargets() & HWY_TARGETS & TargetsAtMost(level);
}

SimdLevel AvailableSimdLevel(SimdLevel cap) {
  const int64_t targets = HighwayTargets(cap);
  if (targets & HWY_AVX3) return SimdLevel::kAvx512;
  if (targets & HWY_AVX2) return SimdLevel::kAvx2;
  if (targets & HWY_SSE4) return SimdLevel::kSse4;
  return SimdLevel::kScalar;
}

}  // namespace sparseserve::cpu
