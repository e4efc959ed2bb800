#pragma once

#include <cstdint>

namespace sparseserve {

// How far keys and values may be from those of a dense run of the same weights:
// by the bound of their plan's mean divergence, in nats a token.
enum class QualityClass : uint8_t {
  kExact,      // 0
  kHundredth,  // up to 0.01
  kThreeHundredths,
  kTenth,
  kUnbounded,
};
inline constexpr int kQualityClasses = 5;

// The best class that holds what is up to `divergence`; kUnbounded for what is
// no number.
QualityClass QualityClassOf(double divergence);

// Who wrote a page. Of a page that others precede it is about these too, whose
// keys and values its own depend on.
struct PageOrigin {
  QualityClass quality = QualityClass::kExact;  // the worst of them
  int32_t plan = 0;                             // of the page's own rows
  // All are rows of prompts that ran with this plan: whoever runs it with these
  // tokens gets the same keys and values. Rows of output are rounded otherwise.
  bool is_pure = true;

  friend bool operator==(const PageOrigin&, const PageOrigin&) = default;
};

// Of a page that `own` wrote behind a page of origin `before`.
PageOrigin Behind(const PageOrigin& before, const PageOrigin& own);

}  // namespace sparseserve
