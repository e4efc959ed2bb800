#pragma once

#include <cstddef>
#include <utility>
#include <variant>
#include <vector>

#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// Kinds of pattern; PatternSpec::index() tells them apart.
inline constexpr int kPatternKinds =
    static_cast<int>(std::variant_size_v<PatternSpec>);

// One of each kind with its default parameters, by index.
inline std::vector<PatternSpec> EveryPattern() {
  return []<size_t... kKind>(std::index_sequence<kKind...>) {
    return std::vector<PatternSpec>{PatternSpec(std::in_place_index<kKind>)...};
  }
  (std::make_index_sequence<kPatternKinds>());
}

}  // namespace sparseserve
