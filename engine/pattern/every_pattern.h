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

// One of each kind that a variant of patterns has, with its default parameters,
// by the variant's index.
template <typename Variant>
std::vector<PatternSpec> EveryKindOf() {
  return []<size_t... kKind>(std::index_sequence<kKind...>) {
    return std::vector<PatternSpec>{
        PatternSpec(std::variant_alternative_t<kKind, Variant>())...};
  }
  (std::make_index_sequence<std::variant_size_v<Variant>>());
}

// One of each kind, by PatternSpec::index().
inline std::vector<PatternSpec> EveryPattern() {
  return EveryKindOf<PatternSpec>();
}

}  // namespace sparseserve
