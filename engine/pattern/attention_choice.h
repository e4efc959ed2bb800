#pragma once

#include <memory>

#include "engine/pattern/pattern_map.h"
#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// What a slice's attention follows. StepSlice points to one.
struct AttentionChoice {
  // In every layer and head, if there is no map.
  PatternSpec pattern = {};
  // One for each layer and KV head of the model. Shared: a server has few, and
  // many requests follow each of them.
  std::shared_ptr<const PatternMap> map = nullptr;
};

inline PatternTraits TraitsOf(const AttentionChoice& choice) {
  return choice.map == nullptr ? TraitsOf(choice.pattern)
                               : choice.map->traits();
}

}  // namespace sparseserve
