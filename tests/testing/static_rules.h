#pragma once

// What a query sees by positions alone in decoders with fixed patterns, a pair
// at a time, from the formulas of their papers. See encoder_rules.h.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/pattern/pattern_spec.h"
#include "tests/testing/rule_attention.h"

namespace sparseserve::testing {

// Where a row stands in its sequence.
struct RowPlace {
  int64_t position = 0;
  bool decodes = false;
  int64_t prompt_tokens = 0;
};

// The rule of a static pattern; shares no code with how patterns are compiled.
VisibleKeys StaticRuleKeys(const PatternSpec& pattern, const RowPlace& row);

// A static pattern and the lengths at which its rule turns.
struct StaticCase {
  std::string name;
  PatternSpec pattern;
  // w - 1, w, w + 1, 2 w of its sizes, 1, and lengths that fit nothing.
  std::vector<int> lengths;
};
// All of them, in several sizes: below, at and above those of blocks.
std::vector<StaticCase> StaticCases();

}  // namespace sparseserve::testing
