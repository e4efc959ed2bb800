#include "engine/kv/page_origin.h"

#include <algorithm>

namespace sparseserve {

QualityClass QualityClassOf(double divergence) {
  if (divergence <= 0) return QualityClass::kExact;
  if (divergence <= 0.01) return QualityClass::kHundredth;
  if (divergence <= 0.03) return QualityClass::kThreeHundredths;
  if (divergence <= 0.1) return QualityClass::kTenth;
  return QualityClass::kUnbounded;
}

PageOrigin Behind(const PageOrigin& before, const PageOrigin& own) {
  PageOrigin origin = own;
  origin.quality = std::max(before.quality, own.quality);
  origin.is_pure = before.is_pure && own.is_pure && before.plan == own.plan;
  return origin;
}

}  // namespace sparseserve
