#pragma once

#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// What a slice's attention follows. StepSlice points to one.
struct AttentionChoice {
  PatternSpec pattern;
};

}  // namespace sparseserve
